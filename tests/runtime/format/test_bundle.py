"""The bundle. If these fail, a product guards with something else than what was signed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bundles import AXES, DENSITY, GATE, INFO, TENSORS, latents, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from safegen.errors import BundleError
from safegen.format import bundle as bundles
from safegen.format.bundle import BundleInfo, read_bundle
from safegen.format.seal import ZEROS, seal
from safegen.guard.bank import on
from safegen.guard.gate import Gate
from safegen.guard.regions import Regions
from safegen.guard.settings import Official, Paper, Ratio, Settings, Theorem


def refused(path: Path, word: str, **changes: Any) -> None:
    write(path, **changes)
    with pytest.raises(BundleError, match=word):
        read_bundle(path)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "shoes.negation"
    write(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.negation"


@pytest.mark.parametrize("guard", [Ratio(false_positive_rate=0.05), Official(first_steps=12)])
def test_what_is_written_is_read(path: Path, guard: Settings) -> None:
    digest = write(path, guard)
    bundle = read_bundle(path)
    assert bundle.digest == digest
    assert bundle.info == BundleInfo(**INFO, guard=guard)
    tensors = load_file(path)  # safetensors itself reads it: no private format
    assert set(tensors) == TENSORS
    assert (tensors["negation"] == bundle.negation).all()
    for name, values in (*GATE._asdict().items(), *DENSITY._asdict().items()):
        stored = tensors[f"gate_{name}" if name in Gate._fields else f"paper_{name}"]
        assert stored.dtype == np.float64
        np.testing.assert_array_equal(stored, values)
        np.testing.assert_array_equal(getattr(bundle.gate, name, getattr(bundle.density, name, None)), stored)
    assert bundle.bank().refs.dtype == np.float32


def test_what_need_not_be_said() -> None:
    info = BundleInfo(**INFO)
    assert (info.schema_version, info.regions, info.anywhere, info.guard) == (5, 1, False, Ratio())
    assert info.layout == Regions(1)
    assert BundleInfo(**INFO, regions=2, anywhere=True).layout == Regions(2, anywhere=True)


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


def test_every_byte_of_the_header_counts(sealed: bytes, path: Path) -> None:
    """Also the padding and the digest field itself, which a digest of the content would miss."""
    for position in range(8 + int.from_bytes(sealed[:8], "little")):
        changed = bytearray(sealed)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(path)


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="safegen freeze"):
        read_bundle(tmp_path / "none.negation")
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path)


CUT = "not a negation bundle, or cut short"


@pytest.mark.parametrize(
    ("content", "parsed"),
    [
        (b"", False),
        (b"1234567", False),
        (struct.pack("<Q", 0) + b"{}", False),
        (struct.pack("<Q", 3) + b"{}", False),
        (struct.pack("<Q", 2) + b"{}", True),
        (struct.pack("<Q", 1) + b"{", True),
        (struct.pack("<Q", (1 << 20) + 1) + b" " * ((1 << 20) + 1), False),
        (struct.pack("<Q", 1 << 20) + b" " * (1 << 20), True),
    ],
)
def test_a_header_is_measured_before_anything_parses_it(path: Path, content: bytes, parsed: bool) -> None:
    """At most a MiB, and no longer than the file: a foreign file must not fill the memory."""
    path.write_bytes(content)
    word = "not a negation bundle. Make one with 'safegen freeze'" if parsed else CUT
    with pytest.raises(BundleError, match=word):
        read_bundle(path)


def test_a_change_says_which_digest_was_sealed(sealed: bytes, path: Path) -> None:
    path.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    stated = json.loads(sealed[8 : 8 + int.from_bytes(sealed[:8], "little")])["__metadata__"]["digest"]
    with pytest.raises(BundleError, match=rf"digest [0-9a-f]{{12}}, sealed as {stated[:12]}\)"):
        read_bundle(path)


def as_described(path: Path, description: str | None, tensors: dict[str, Any] | None = None) -> None:
    """A sealed file whose description is any text."""
    metadata = {"digest": ZEROS} | ({} if description is None else {"safegen": description})
    save_file(tensors or {"negation": latents(3)}, path, metadata)
    seal(path)


@pytest.mark.parametrize(
    ("description", "word"),
    [(None, "bundle schema None"), ("{", "not a negation bundle"), ('{"schema_version": 5}', "missing"),
     ('{"schema_version": 4}', "bundle schema 4, this safegen reads 5")],
)  # fmt: skip
def test_a_sealed_file_without_its_description_is_refused(path: Path, description, word: str) -> None:
    as_described(path, description)
    with pytest.raises(BundleError, match=word):
        read_bundle(path)


@pytest.mark.parametrize("name", sorted(TENSORS))
def test_a_tensor_that_is_missing_is_named(path: Path, name: str) -> None:
    write(path)
    tensors = {k: v for k, v in load_file(path).items() if k != name}
    as_described(path, msgspec.json.encode(BundleInfo(**INFO)).decode(), tensors)
    with pytest.raises(BundleError, match=name):
        read_bundle(path)


def test_a_digest_among_the_numbers_does_not_make_a_bundle(path: Path) -> None:
    """Sealed rightly, without a description of any kind."""
    save_file({"x": np.frombuffer(f'"digest":"{ZEROS}"'.encode(), np.uint8)}, path)
    seal(path)
    with pytest.raises(BundleError, match="bundle schema None"):
        read_bundle(path)


def test_no_other_safetensors_error_comes_through(path: Path) -> None:
    """Sealed rightly, and no file of that format."""
    header = json.dumps({"__metadata__": {"digest": ZEROS}, "x": 3}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    seal(path)
    with pytest.raises(BundleError, match="not a negation bundle \\("):
        read_bundle(path)


def test_an_unknown_word_of_the_description_is_refused(path: Path) -> None:
    """A setting that nobody reads is a setting that somebody believes in."""
    write(path)
    for inside in ({"strength": 5}, {"guard": {"mode": "ratio", "strength": 5}}):
        info = msgspec.to_builtins(BundleInfo(**INFO)) | inside
        as_described(path, json.dumps(info), load_file(path))
        with pytest.raises(BundleError, match="strength"):
            read_bundle(path)


def test_the_gate_gets_the_axes_of_its_bundle(path: Path) -> None:
    """On the device, too: without them its thresholds are of other distances than it counts."""
    write(path)
    bank = on(read_bundle(path).bank(), np)
    assert bank.metric is not None
    np.testing.assert_array_equal(bank.metric.axes, AXES)
    _, refs, refs_sq, benign, benign_sq = bank.metric
    for rows, along, lengths in ((bank.refs, refs, refs_sq), (bank.benign, benign, benign_sq)):
        np.testing.assert_allclose(along, rows @ AXES.T.astype(np.float32), rtol=1e-5)
        np.testing.assert_allclose(lengths, (along**2).sum(1), rtol=1e-5)
    assert bank.target_mask.tolist() == [0.0] * 4 + [-np.inf]


@pytest.mark.parametrize("guard", [Paper(quantile=1.5), Ratio(false_positive_rate=-0.1), Theorem(w_max=0.0)])
def test_settings_out_of_range_are_refused(path: Path, guard: Settings) -> None:
    refused(path, r"not a negation bundle .*\$\.guard", guard=guard)


def test_kernels_have_a_width(path: Path) -> None:
    for wrong in (0.0, -1.0):
        refused(path, "bandwidth", bandwidth=wrong)
    write(path, bandwidth=1e-3)
    assert read_bundle(path).info.bandwidth == 1e-3


def test_another_schema_says_so(path: Path) -> None:
    refused(path, "bundle schema 99, this safegen reads 5", schema_version=99)
    assert bundles.SCHEMA_VERSION == 5


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("safegen.format.bundle.seal", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "x.negation")
    assert list(tmp_path.iterdir()) == []
