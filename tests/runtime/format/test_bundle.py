"""The bundle. If these fail, a product guards with something else than what was signed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from safegen.errors import BundleError
from safegen.format.bundle import TENSORS, BundleInfo, read_bundle, write_bundle
from safegen.guard.bank import on
from safegen.guard.gate import LOG_SNR_GRID, Calibration
from safegen.guard.settings import Official, Paper, Ratio, Settings, Theorem

AXES = np.full((2, 16), 0.125, np.float16)


def write(path: Path, guard: Settings = Ratio(), n: int = 3, axes: np.ndarray = AXES, **changes) -> str:
    rng = np.random.default_rng(0)
    negation, benign = (rng.standard_normal((k, 4, 2, 2)).astype(np.float16) for k in (n, 5))
    curves = [rng.standard_normal((len(LOG_SNR_GRID), k)).astype(np.float32) for k in (4, n, n)]
    info = {
        "name": "shoes", "latent_space": "ab" * 32, "latent_shape": (4, 2, 2), "image_size": (8, 8),
        "negation_count": n, "benign_count": 5, "target_count": 4, "benign_source": "images",
        "source_digest": "cd" * 32, "created": "2026-01-01T00:00:00+00:00", "guard": guard, "bandwidth": 2.0,
        "aim_bandwidth": 3.0,
        "foreseen_from": "images", **changes,
    }  # fmt: skip
    foreseen = np.linspace(-6, 6, 3, dtype=np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    calibration = Calibration(LOG_SNR_GRID.astype(np.float32), *curves, *foreseen)
    return write_bundle(path, BundleInfo(**info), negation, benign, axes, calibration)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "shoes.negation"
    write(path)
    return path.read_bytes()


@pytest.mark.parametrize("guard", [Ratio(false_positive_rate=0.05), Official(first_steps=12)])
def test_what_is_written_is_read(tmp_path: Path, guard: Settings) -> None:
    path = tmp_path / "shoes.negation"
    digest = write(path, guard)
    bundle = read_bundle(path)
    assert bundle.digest == digest
    assert bundle.info.guard == guard
    tensors = load_file(path)  # safetensors itself reads it: no private format
    assert set(tensors) == set(TENSORS)
    assert (tensors["negation"] == bundle.negation).all()
    assert bundle.bank().refs.dtype == np.float32


@settings(max_examples=150)
@given(data=st.data())
def test_any_flipped_bit_is_refused(sealed: bytes, tmp_path_factory, data) -> None:
    position = data.draw(st.integers(0, len(sealed) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(sealed)
    changed[position] ^= 1 << bit
    path = tmp_path_factory.mktemp("flip") / "x.negation"
    path.write_bytes(changed)
    with pytest.raises(BundleError):
        read_bundle(path)


@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_or_addition_is_refused(sealed: bytes, tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.negation"
    path.write_bytes(sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(BundleError):
        read_bundle(path)
    path.write_bytes(sealed + data.draw(st.binary(min_size=1, max_size=20)))
    with pytest.raises(BundleError):
        read_bundle(path)


def test_every_byte_of_the_header_counts(sealed: bytes, tmp_path: Path) -> None:
    """Also the padding and the digest field itself, which a digest of the content would miss."""
    path = tmp_path / "x.negation"
    for position in range(8 + int.from_bytes(sealed[:8], "little")):
        changed = bytearray(sealed)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(path)


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="safegen freeze"):
        read_bundle(tmp_path / "none.negation")


def test_the_gate_gets_the_axes_of_its_bundle(tmp_path: Path) -> None:
    """On the device, too: without them its thresholds are of other distances than it counts."""
    path = tmp_path / "x.negation"
    write(path)
    bank = on(read_bundle(path).bank(), np)
    assert bank.measure is not None
    np.testing.assert_array_equal(bank.measure.axes, AXES)
    _, refs, refs_sq, benign, benign_sq = bank.measure
    for rows, along, lengths in ((bank.refs, refs, refs_sq), (bank.benign, benign, benign_sq)):
        np.testing.assert_allclose(along, rows @ AXES.T.astype(np.float32), rtol=1e-5)
        np.testing.assert_allclose(lengths, (along**2).sum(1), rtol=1e-5)


def test_axes_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.negation"
    write(path, axes=np.zeros((2, 15), np.float16))
    with pytest.raises(BundleError, match="axes is"):
        read_bundle(path)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A threshold that is no number opens no gate."""
    path = tmp_path / "x.negation"
    write(path, axes=np.full((2, 16), np.nan, np.float16))
    with pytest.raises(BundleError, match="axes has numbers that are not finite"):
        read_bundle(path)


@pytest.mark.parametrize("guard", [Paper(quantile=1.5), Ratio(false_positive_rate=-0.1), Theorem(w_max=0.0)])
def test_settings_out_of_range_are_refused(tmp_path: Path, guard: Settings) -> None:
    path = tmp_path / "x.negation"
    write(path, guard)
    with pytest.raises(BundleError, match=r"not a negation bundle .*\$\.guard"):
        read_bundle(path)


def test_another_schema_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.negation"
    write(path, schema_version=99)
    with pytest.raises(BundleError, match="schema 99"):
        read_bundle(path)


def test_a_description_that_does_not_fit_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.negation"
    write(path, negation_count=4)
    with pytest.raises(BundleError, match="description"):
        read_bundle(path)


def test_looking_anywhere_for_what_fills_the_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.negation"
    write(path, anywhere=True)
    with pytest.raises(BundleError, match="anywhere is for 2 and more"):
        read_bundle(path)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("safegen.format.bundle.seal", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "x.negation")
    assert list(tmp_path.iterdir()) == []
