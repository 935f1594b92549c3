"""What a bundle's numbers may be. If these fail, a gate is read from what is no calibration of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import AXES, DENSITY, GATE, latents, write

from safegen.errors import BundleError
from safegen.format.bundle import read_bundle
from safegen.guard.gate import Density, Gate
from safegen.guard.regions import Regions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.negation"


def refused(path: Path, word: str, **changes: Any) -> None:
    write(path, **changes)
    with pytest.raises(BundleError, match=word):
        read_bundle(path)


def test_tensors_are_of_their_type_and_finite(path: Path) -> None:
    """A threshold that is no number opens no gate."""
    wide = {"negation": latents(3).astype(np.float32), "benign": latents(5).astype(np.float32)}
    for name, values in (wide | {"axes": AXES.astype(np.float32)}).items():
        refused(path, f"{name} is of float32, not of float16", **{name: values})
    for number in (np.nan, np.inf):
        refused(path, "axes has numbers that are not finite", axes=np.full((2, 16), number, np.float16))
        for field, values in GATE._asdict().items():
            gate = GATE._replace(**{field: np.append(values[:-1], number)})
            refused(path, f"gate_{field} has numbers that are not finite", gate=gate)
    refused(path, "gate_scores is of float32", gate=GATE._replace(scores=GATE.scores.astype(np.float32)))
    refused(path, "paper_log_snr is of float32",
            density=DENSITY._replace(log_snr=DENSITY.log_snr.astype(np.float32)))  # fmt: skip


def gate(**fields: Any) -> Gate:
    return GATE._replace(**{name: np.array(values, np.float64) for name, values in fields.items()})


def density(**fields: Any) -> Density:
    return DENSITY._replace(**{name: np.array(values, np.float64) for name, values in fields.items()})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gate_signal", {"signal": []}),
        ("gate_signal", {"signal": [[0.0, 0.3, 1.0]]}),
        ("gate_signal", {"signal": [-0.01, 0.3, 1.0]}),
        ("gate_signal", {"signal": [0.0, 0.3, 1.01]}),
        ("gate_signal", {"signal": [0.0, 0.3, 0.3]}),
        ("gate_signal", {"signal": [0.3, 0.0, 1.0]}),
        ("gate_location", {"location": [0.0, 1.0]}),
        ("gate_location", {"location": [[0.0, 1.0, 2.0]]}),
        ("gate_scores", {"scores": []}),
        ("gate_scores", {"scores": [[0.0, 1.0]]}),
        ("gate_scores", {"scores": [0.0, 2.0, 1.0]}),
        ("paper_log_snr", {"log_snr": []}),
        ("paper_log_snr", {"log_snr": [[-7.0, 0.0, 7.0]]}),
        ("paper_log_snr", {"log_snr": [-7.0, 0.0, 0.0]}),
        ("paper_quantiles", {"quantiles": [0.0, 1.0, 2.0]}),
        ("paper_quantiles", {"quantiles": [[0.0, 1.0], [0.0, 1.0]]}),
        ("paper_quantiles", {"quantiles": [[0.0], [0.0], [0.0]]}),
        ("paper_quantiles", {"quantiles": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]}),
    ],
)
def test_numbers_that_are_no_calibration_are_refused(path: Path, name: str, fields: dict[str, Any]) -> None:
    changed = {"gate": gate(**fields)} if name.startswith("gate") else {"density": density(**fields)}
    refused(path, f"{name} is no calibration of a gate", **changed)


def test_the_least_that_a_calibration_may_be(path: Path) -> None:
    """One level, one picture, scores and quantiles that are all alike."""
    one = Gate(np.array([1.0]), np.array([0.0]), np.array([0.0, 0.0]))
    flat = Density(np.array([0.0, 0.01]), np.zeros((2, 2)))
    write(path, gate=one, density=flat)
    assert read_bundle(path).gate.scores.tolist() == [0.0, 0.0]
    write(path, gate=one._replace(signal=np.array([0.0])), density=flat)
    assert read_bundle(path).gate.signal.tolist() == [0.0]


@pytest.mark.parametrize("shape", [(2, 15), (2, 17), (0, 16), (16,), (1, 2, 16)])
def test_axes_of_another_shape_are_refused(path: Path, shape: tuple[int, ...]) -> None:
    refused(path, "axes is", axes=np.zeros(shape, np.float16))


@pytest.mark.parametrize(
    "changes",
    [
        {"negation_count": 4},
        {"benign_count": 4},
        {"negation_count": 0, "negation": latents(0)},
        {"benign_count": 0, "benign": latents(0)},
        {"latent_shape": (4, 2, 3)},
        {"regions": 2, "latent_shape": (4, 4, 4)},
    ],
)
def test_a_description_that_does_not_fit_its_tensors_is_refused(path: Path, changes: dict[str, Any]) -> None:
    refused(path, "its description says", **changes)


def test_there_are_targets_and_no_more_than_benign_latents(path: Path) -> None:
    for count in (0, -1, 6):
        refused(path, f"{count} targets of 5 benign latents", target_count=count)
    for count in (1, 5):
        write(path, target_count=count)
        assert read_bundle(path).info.target_count == count


@pytest.mark.parametrize("anywhere", [False, True])
def test_banks_of_regions_hold_all_of_each_image(path: Path, anywhere: bool) -> None:
    """Of things anywhere the negation images are as large as a region."""
    rows = 3 if anywhere else 12
    fits = {"regions": 2, "anywhere": anywhere, "latent_shape": (4, 4, 4), "negation": latents(rows),
            "benign": latents(20), "target_count": 18}  # fmt: skip
    write(path, **fits)
    assert read_bundle(path).info.layout == Regions(2, anywhere)
    refused(path, "negation is", **fits | {"negation": latents(15 - rows)})
    refused(path, "benign is", **fits | {"benign": latents(5)})


@pytest.mark.parametrize(
    "changes", [{"anywhere": True}, {"regions": 3, "latent_shape": (4, 6, 6)}, {"regions": 4}, {"regions": 0}]
)
def test_regions_that_cannot_be_are_refused(path: Path, changes: dict[str, Any]) -> None:
    refused(path, "regions a side of latents .* anywhere is for 2 and more", **changes)
