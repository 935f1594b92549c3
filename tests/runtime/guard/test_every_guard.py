"""What holds for every guard alike. If these fail, a neighbour in the batch, the device or a strange number
decides about a picture."""

import math
import tracemalloc
from typing import Any

import array_api_strict
import numpy as np
from formulas import SHAPE, SHUT, close, pictures, row_of, two_banks
from hypothesis import given, settings
from hypothesis import strategies as st

from safegen.device import array_namespace
from safegen.guard import official, ratio
from safegen.guard.bank import Bank, on
from safegen.guard.paper import paper
from safegen.guard.rivals import bank_mean, sgf, spell, theorem
from safegen.sampling.table import Row

LOG3 = math.log(3.0)
Z = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)


def units_of(bank: Bank) -> official.Units:
    units = official.unit_pixels(bank.refs, 4)
    return official.Units(units, array_namespace(units).sum(units**2, axis=-1))


def run_all(x: Any, x0: Any, z: Any, bank: Bank, row: Row) -> dict[str, Any]:
    xp, units = array_namespace(x), units_of(bank)
    shut = xp.zeros(x.shape[0], dtype=xp.bool)
    released = official.Numbers(3.15, 0.33, 0.1)
    return {
        "theorem": theorem(x, x0, row, bank, log_eta=0.0, log_w_max=LOG3),
        "ratio": ratio.ratio(x, x0, row, bank, shut, ratio.Numbers(-1.0, 5.0, 1.0)),
        "paper": paper(x, x0, row, bank, threshold=-1e3, usual=-50.0, eta=1.0, log_cap=LOG3),
        "official": official.official(x, x0, row, units, z, released),
        "official, sd3": official.official(x, x0, row, units, z, released, sd3=True),
        "spell": spell(x, x0, bank, radius=9.0, overcompensation=1.6),
        "sgf": sgf(x, x0, bank, gamma=0.05, step=2.0),
        "bank-mean": bank_mean(x, x0, bank, scale=0.3),
    }


def test_each_sample_is_judged_alone() -> None:
    """One dangerous picture in a batch must not open, or close, the gate of its neighbours."""
    bank, row = two_banks(), row_of()
    near, far = pictures(near=bank.refs[3]), pictures(near=bank.benign[2])
    x, x0 = (np.concatenate([a[:1], b[:2]]) for a, b in zip(near, far, strict=True))
    batch = run_all(x, x0, Z, bank, row)
    for i in range(3):
        alone = run_all(x[i : i + 1], x0[i : i + 1], Z[i : i + 1], bank, row)
        for name, (_, new_x0, evidence) in alone.items():
            close(batch[name][1][i], new_x0[0])
            close(batch[name][2].weight[i], evidence.weight[0])
    assert batch["ratio"][2].weight.tolist() == [1.0, 0.0, 0.0]


def test_the_inputs_are_never_changed() -> None:
    bank = two_banks()
    x, x0 = pictures(near=bank.refs[0])
    before = [a.copy() for a in (x, x0, Z, bank.refs, bank.benign)]
    run_all(x, x0, Z, bank, row_of())
    for old, new in zip(before, (x, x0, Z, bank.refs, bank.benign), strict=True):
        assert (old == new).all()


def test_the_same_lines_run_under_the_strict_array_api() -> None:
    """What passes here runs on CuPy: nothing of NumPy alone is used."""
    bank, row = two_banks(axes=np.eye(5, 144, dtype=np.float32) / 2), row_of()
    x, x0 = pictures(near=bank.refs[3])
    strict = [array_api_strict.asarray(a) for a in (x, x0, Z)]
    found = run_all(*strict, on(bank, array_api_strict), row)
    for name, (new_x, new_x0, evidence) in run_all(x, x0, Z, bank, row).items():
        close(np.asarray(found[name][0]), new_x)
        close(np.asarray(found[name][1]), new_x0)
        close(np.asarray(found[name][2].weight), evidence.weight)


@settings(max_examples=30)
@given(
    log_snr=st.floats(-12, 12),
    scale=st.floats(0.01, 30),
    n=st.integers(2, 40),
    seed=st.integers(0, 1000),
)
def test_nothing_overflows_at_any_noise_or_scale(log_snr: float, scale: float, n: int, seed: int) -> None:
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))
    x, x0 = (a * np.float32(scale) for a in pictures(seed))
    for new_x, new_x0, evidence in run_all(x, x0, x, two_banks(n), row_of(alpha, sigma)).values():
        assert np.isfinite(new_x).all()
        assert np.isfinite(new_x0).all()
        assert np.isfinite(evidence.weight).all()


def test_a_bank_of_515_at_4x64x64_needs_no_large_temporary() -> None:
    """On a box with little memory the guard must cost its bank and hardly more."""
    n, shape, rng = 515, (2, 4, 64, 64), np.random.default_rng(0)
    axes = rng.standard_normal((128, 4 * 64 * 64)) / 256
    bank = two_banks(n, n, axes=axes, shape=shape)
    x, x0, z = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    units, row = units_of(bank), row_of()
    calls = {
        "ratio": lambda: ratio.ratio(x, x0, row, bank, SHUT[:2], ratio.Numbers(-1e9, 80.0, 1.0)),
        "paper": lambda: paper(x, x0, row, bank, threshold=0.0, usual=0.0, eta=1.0, log_cap=LOG3),
        "official": lambda: official.official(x, x0, row, units, z, official.Numbers(3.15, 0.33, 0.0)),
        "spell": lambda: spell(x, x0, bank, radius=9.0, overcompensation=1.6),
        "sgf": lambda: sgf(x, x0, bank, gamma=0.05, step=2.0),
    }
    largest_allowed = n * len(x) * 4 + x.nbytes
    for name, call in calls.items():
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # the peak is a handful of arrays of at most that size at once; N x D would be 33 MB
        assert peak < 8 * largest_allowed, name
