"""Numbers and refusals that every host shares. If these fail, a file guards in one host as in no other.

The C++ host is held to the same in cpp/tests/test_golden.cpp and tests/cpp/test_cpp_golden.py.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import malformed
import numpy as np
import pytest

from safegen.errors import BundleError
from safegen.format.bundle import read_bundle
from safegen.format.result import Verdict, Watch, judge
from safegen.guard.gate import density_curves, thresholds
from safegen.guard.official import noise_shares
from safegen.sampling.table import Row

GOLDEN = json.loads((malformed.GOLDEN / "golden.json").read_text())
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def row(alpha: float, sigma: float, a: float = 0.0) -> Row:
    return Row(500.0, 1.0, 0.0, 1.0, a, 1.0 - a, 0.0, 0.0, alpha, sigma)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row(*level) for level in GOLDEN["levels"]]


@pytest.mark.parametrize("rate", GOLDEN["ratio"])
def test_the_gate_of_ratio(rows: list[Row], rate: str) -> None:
    gate = read_bundle(malformed.GOLDEN / "golden.negation").gate
    at = thresholds(gate, float(rate), [row.signal for row in rows])
    np.testing.assert_allclose(at, GOLDEN["ratio"][rate], **EXACT)


@pytest.mark.parametrize("quantile", GOLDEN["paper"])
def test_the_curves_of_paper(rows: list[Row], quantile: str) -> None:
    density = read_bundle(malformed.GOLDEN / "golden.negation").density
    low, usual = density_curves(density, float(quantile), [row.log_snr for row in rows])
    np.testing.assert_allclose(low, GOLDEN["paper"][quantile], **EXACT)
    np.testing.assert_allclose(usual, GOLDEN["paper"]["0.5"], **EXACT)


def test_the_noise_of_official_for_sd3() -> None:
    official = GOLDEN["official"]
    shares = [noise_shares(row(*level), sd3=True) for level in official["flow"]]
    np.testing.assert_allclose(shares, np.transpose([official["kept"], official["fresh"]]), **EXACT)
    assert noise_shares(row(0.6, 0.8, 0.9), sd3=False) == (0.0, 1.0)


@pytest.mark.parametrize("golden", GOLDEN["verdicts"], ids=lambda verdict: verdict["guard"])
def test_the_verdict_and_its_fields(golden: dict) -> None:
    steps = zip(*GOLDEN["watched"].values(), strict=True)
    seen = [Watch(i, 500.0, 0.0, *watched) for i, watched in enumerate(steps)]
    verdict = judge(golden["guard"], len(seen), seen, latches=golden["guard"] == "ratio")
    assert verdict.summary() == golden
    assert [field.name for field in fields(Verdict)] == [*golden, "trace"]


@pytest.mark.parametrize("name", malformed.REFUSED)
def test_a_malformed_bundle_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = malformed.write_changed(tmp_path / "x.negation", malformed.REFUSED[name])
    with pytest.raises(BundleError) as refused:
        read_bundle(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", malformed.READ)
def test_what_is_odd_but_whole_is_read(tmp_path: Path, name: str) -> None:
    read_bundle(malformed.write_changed(tmp_path / "x.negation", malformed.READ[name]))
