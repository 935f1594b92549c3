"""The guards against their formulas, written out in float64 with nothing clever.

If these fail, the product steers away from something else than what its users froze.
"""

import math
import tracemalloc

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safegen.device import array_namespace
from safegen.guard.bandwidth import neighbours
from safegen.guard.bank import Bank, foreseen_log_ratio, on
from safegen.guard.bank import make_bank as bank_of
from safegen.guard.official import official, unit_pixels
from safegen.guard.paper import paper
from safegen.guard.ratio import ratio
from safegen.guard.rivals import bank_mean, sgf, spell, theorem
from safegen.sampling.table import Row

SHAPE = (3, 4, 6, 6)
D = 4 * 6 * 6
SHUT = np.zeros(3, bool)
RELATIVE = 2e-4
"""float32 products of 144 numbers round at about 1e-6; exp of differences of hundreds multiplies that."""


LOG3 = math.log(3.0)
USUAL = {"sure": 0.0, "tau": 1.0, "repulsion": 1.0, "bandwidth": 5.0, "aim_bandwidth": 5.0}
"""What ``ratio`` is given where only its gate is tested."""
LOGS = {"log_eta": math.log(0.5), "log_w_max": LOG3}


def make_row(alpha: float = 0.6, sigma: float = 0.8) -> Row:
    return Row(500.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, alpha, sigma)


def make_bank(n: int = 7, m: int = 9, seed: int = 0, d: int = D) -> Bank:
    rng = np.random.default_rng(seed)
    refs, benign = (rng.standard_normal((k, d)).astype(np.float32) for k in (n, m))
    return Bank(refs, (refs**2).sum(1), benign, (benign**2).sum(1))


def make_pair(seed: int = 1, near: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, x0 = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    if near is not None:
        x0 = (near.reshape(1, *SHAPE[1:]) + 0.1 * x0).astype(np.float32)
        x = (0.6 * x0 + 0.8 * x).astype(np.float32)
    return x, x0


def close(found, expected) -> None:
    scale = np.abs(expected).max() + 1e-12
    assert np.abs(np.asarray(found, np.float64) - expected).max() / scale < RELATIVE


def forward_kernels(x: np.ndarray, refs: np.ndarray, row: Row, tau: float) -> np.ndarray:
    gaps = x.reshape(len(x), 1, -1).astype(np.float64) - row.alpha * refs[None].astype(np.float64)
    return -(gaps**2).sum(-1) / (2 * tau * row.sigma**2)


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    top = values.max(-1, keepdims=True)
    return (np.log(np.exp(values - top).mean(-1, keepdims=True)) + top)[..., 0]


def posterior_mean(kernels: np.ndarray, refs: np.ndarray, like: np.ndarray) -> np.ndarray:
    weights = np.exp(kernels - kernels.max(-1, keepdims=True))
    return ((weights / weights.sum(-1, keepdims=True)) @ refs.astype(np.float64)).reshape(like.shape)


@pytest.mark.parametrize("tau", [1.0, 8.0])
def test_theorem_is_the_theorem(tau: float) -> None:
    bank, row = make_bank(), make_row()
    x, x0 = make_pair(near=bank.refs[3])
    unsafe, benign = (forward_kernels(x, r, row, tau) for r in (bank.refs, bank.benign))
    value = log_mean_exp(unsafe) - log_mean_exp(benign)
    w = np.minimum(0.5 * np.exp(np.minimum(value, 50)), 3.0)
    expected = x0 + w[:, None, None, None] * (x0 - posterior_mean(unsafe, bank.refs, x0))
    new_x, new_x0, evidence = theorem(x, x0, row, bank, tau=tau, **LOGS)
    assert (value > 0).all()
    close(evidence.weight, w)
    close(new_x0, expected)
    assert evidence.nearest.tolist() == unsafe.argmax(-1).tolist()
    assert new_x is x
    far, far_x0 = make_pair(near=bank.benign[2])
    assert (theorem(far, far_x0, row, bank, tau=tau, **LOGS)[1] == far_x0).all()


def foreseen(x0: np.ndarray, bank: Bank, bandwidth: float) -> np.ndarray:
    """Both densities at x0 as mixtures of N(r, h^2 I), written out in float64."""
    rows = x0.reshape(len(x0), 1, -1).astype(np.float64)
    logs = [-((rows - refs[None]) ** 2).sum(-1) / (2 * bandwidth**2) for refs in (bank.refs, bank.benign)]
    return log_mean_exp(logs[0]) - log_mean_exp(logs[1])


@pytest.mark.parametrize("bandwidth", [1.0, 4.0, 30.0])
def test_the_gate_looks_at_the_picture_that_the_model_foresees(bandwidth: float) -> None:
    """x_t is mostly noise when it must decide; if this breaks, the gate opens late or never."""
    bank = make_bank()
    _, x0 = make_pair(near=bank.refs[3])
    close(foreseen_log_ratio(x0, bank, bandwidth), foreseen(x0, bank, bandwidth))
    assert foreseen_log_ratio(x0, bank, 1.0).argmax() == foreseen(x0, bank, 1.0).argmax()


def test_the_gate_counts_distances_less_along_its_axes() -> None:
    """Written out in float64; if this breaks, thresholds are of other distances than the gate's."""
    plain, rng = make_bank(), np.random.default_rng(3)
    axes = (0.2 * rng.standard_normal((5, D))).astype(np.float32)
    refs, benign = (rows.reshape(-1, *SHAPE[1:]) for rows in (plain.refs, plain.benign))
    bank = bank_of(refs, benign, axes=axes)
    _, x0 = make_pair(near=plain.refs[3])

    def squared(rows: np.ndarray) -> np.ndarray:
        gaps = x0.reshape(len(x0), 1, -1).astype(np.float64) - rows[None]
        return (gaps**2).sum(-1) - ((gaps @ axes.T.astype(np.float64)) ** 2).sum(-1)

    expected = [log_mean_exp(-squared(rows) / (2 * 4.0**2)) for rows in (plain.refs, plain.benign)]
    close(foreseen_log_ratio(x0, bank, 4.0), expected[0] - expected[1])
    gaps = plain.refs[:, None].astype(np.float64) - plain.refs[None]
    apart = (gaps**2).sum(-1) - ((gaps @ axes.T.astype(np.float64)) ** 2).sum(-1)
    along = bank.measure.refs, bank.measure.refs_sq
    for summary in (np.min, np.median, np.max):
        found = neighbours(bank.refs, bank.refs_sq, 1, len(apart), summary, power=2, along=along)
        close(found, summary(np.maximum(np.sort(apart, axis=1)[:, 1:], 0)))


@pytest.mark.parametrize("alpha", [0.6, 0.9])
@pytest.mark.parametrize("tau", [1.0, 8.0])
def test_ratio_replaces_an_unsafe_x0_by_the_benign_banks(tau: float, alpha: float) -> None:
    bank, row = make_bank(), make_row(alpha, math.sqrt(1 - alpha**2))
    x, x0 = make_pair(near=bank.refs[3])
    unsafe, benign = (forward_kernels(x, r, row, tau) for r in (bank.refs, bank.benign))
    value = log_mean_exp(unsafe) - log_mean_exp(benign)
    middle = float(np.median(value))
    # log-SNR is below 0 at alpha 0.6, where the push is whole, and above it at 0.9
    w = np.ones(3) if alpha < 0.7 else 1 / (1 + np.exp(-np.clip(value - middle, -30, 30)))
    benign_mean = posterior_mean(benign, bank.benign, x0)
    target = benign_mean + 0.7 * (benign_mean - posterior_mean(unsafe, bank.refs, x0))
    expected = x0 + w[:, None, None, None] * (target - x0)
    _, new_x0, evidence = ratio(
        x,
        x0,
        row,
        bank,
        SHUT,
        opens=-1e4,
        sure=0.0,
        releases=middle,
        tau=tau,
        repulsion=0.7,
        bandwidth=5.0,
        aim_bandwidth=5.0,
    )
    close(evidence.value, foreseen(x0, bank, 5.0) + 1e4)
    close(new_x0, expected)
    assert evidence.nearest.tolist() == unsafe.argmax(-1).tolist()


def test_ratio_judges_by_what_was_foreseen_before_a_text_guard() -> None:
    """And moves what the text guard left, by as much as without it."""
    bank, row = make_bank(), make_row()
    x, plain = make_pair(near=bank.refs[3])
    _, x0 = make_pair(near=bank.benign[6])
    settings = {"opens": 0.0, "releases": 0.0, **USUAL}
    _, alone, judged = ratio(x, plain, row, bank, SHUT, **settings)
    _, found, evidence = ratio(x, x0, row, bank, SHUT, plain=plain, **settings)
    assert (judged.weight > 0).any() and (judged.value == evidence.value).all()
    w = judged.weight[:, None, None, None]
    close(found, x0 + (alone - plain) + w * (plain - x0))


def test_ratio_steers_towards_the_first_targets_alone() -> None:
    """What comes after them looks like the negation set, and would keep the picture what it was."""
    bank, row = make_bank(), make_row()
    bank = bank._replace(aims=np.where(np.arange(len(bank.benign)) < 4, 0, -np.inf).astype(np.float32))
    x, x0 = make_pair(near=bank.benign[6])
    _, found, evidence = ratio(x, x0, row, bank, SHUT, opens=-1e6, sure=0.0, releases=0.0, tau=1.0,
                                     repulsion=0.0, bandwidth=5.0, aim_bandwidth=5.0)  # fmt: skip
    close(found, posterior_mean(forward_kernels(x, bank.benign[:4], row, 1.0), bank.benign[:4], x0))
    every = ratio(x, x0, row, bank._replace(aims=None), SHUT, opens=-1e6, sure=0.0, releases=0.0,
                        tau=1.0, repulsion=0.0, bandwidth=5.0, aim_bandwidth=5.0)[2]  # fmt: skip
    assert (evidence.value == every.value).all()  # all of them still bear witness


def test_ratio_aims_by_x0_while_it_may_be_wrong() -> None:
    """Else an ordinary picture on which the gate opens by mistake becomes whatever its noise resembles."""
    bank, row = make_bank(), make_row()
    x, _ = make_pair(near=bank.benign[6])
    _, x0 = make_pair(seed=2, near=bank.benign[2])
    value = foreseen(x0, bank, 5.0)
    order = np.argsort(value)
    x, x0, value = x[order], x0[order], value[order]
    opens, last_alone = float(value[0] - 1), float(value[1:].mean())
    _, found, _ = ratio(x, x0, row, bank, SHUT, opens=opens, sure=last_alone - opens, releases=0.0,
                              tau=1.0, repulsion=0.5, bandwidth=5.0, aim_bandwidth=3.0)  # fmt: skip
    for i, at_x0 in enumerate((True, True, False)):
        points = x0 if at_x0 else x / row.alpha
        h = 3.0 if at_x0 else row.sigma / row.alpha
        means = []
        for rows in (bank.benign, bank.refs):
            gaps = ((points[i].reshape(1, -1).astype(np.float64) - rows) ** 2).sum(-1)
            means.append(posterior_mean(-gaps[None] / (2 * h**2), rows, x0[i : i + 1]))
        close(found[i : i + 1], means[0] + 0.5 * (means[0] - means[1]))


def test_ratio_leaves_alone_what_stays_below_its_threshold() -> None:
    bank = make_bank()
    x, x0 = make_pair(near=bank.benign[2])
    _, new_x0, evidence = ratio(x, x0, make_row(), bank, SHUT, opens=1e3, releases=-10.0, **USUAL)
    assert (evidence.value < 0).all()
    assert (new_x0 == x0).all()


def test_a_picture_in_doubt_is_moved_until_it_is_not_and_no_other_is() -> None:
    """Else few steps draw look-alikes of what is negated, or ordinary pictures are changed for nothing."""
    bank, row = make_bank(), make_row()
    x, x0 = make_pair()
    share = np.array([0.2, 0.5, 0.8])[:, None]
    x0 = (0.1 * x0 + (share * bank.refs[3] + (1 - share) * bank.benign[2]).reshape(x0.shape)).astype(
        np.float32
    )
    value = foreseen(x0, bank, 5.0)
    settings = {"releases": 0.0, **USUAL, "sure": 1e3}
    between = [float(value[:2].mean()), float(value[1:].mean())]
    _, alone, gate = ratio(x, x0, row, bank, SHUT, opens=between[1], **settings)
    _, found, evidence = ratio(x, x0, row, bank, SHUT, opens=between[1], doubts=between[0], **settings)
    assert (found[[0, 2]] == alone[[0, 2]]).all()  # far below, and open
    assert (evidence.value == gate.value).all()
    assert evidence.weight[[0, 2]].tolist() == [0.0, gate.weight[2]]
    assert -1.0 <= evidence.weight[1] < 0.0
    moved = foreseen(found, bank, 5.0)[1]
    # the secant is exact where the evidence falls in a straight line
    assert moved - between[0] == pytest.approx(0.0, abs=0.2 * (value[1] - between[0]))


def test_a_sharper_target_is_a_mean_of_fewer_latents() -> None:
    """Without it the pictures of few steps are blurs."""
    bank, row = make_bank(), make_row()
    x, x0 = make_pair(near=bank.benign[6])
    settings = {"opens": -1e6, "releases": 0.0, **USUAL, "repulsion": 0.0}
    _, found, _ = ratio(x, x0, row, bank, SHUT, **settings, sharpness=2.0)
    kernels = 2.0 * forward_kernels(x, bank.benign, row, 1.0)
    close(found, posterior_mean(kernels, bank.benign, x0))


def test_ratio_keeps_hold_of_a_picture_whose_gate_has_opened() -> None:
    bank = make_bank()
    x, x0 = make_pair(near=bank.refs[3])
    latched = np.array([True, False, False])
    _, new_x0, evidence = ratio(x, x0, make_row(), bank, latched, opens=1e6, releases=0.0, **USUAL)
    assert evidence.weight.tolist() == [1.0, 0.0, 0.0]
    assert (new_x0[1:] == x0[1:]).all()
    # once its content is settled and benign, the hold lets go by itself
    late = make_row(0.9, math.sqrt(1 - 0.81))
    far, far_x0 = make_pair(near=bank.benign[3])
    _, kept, _ = ratio(far, far_x0, late, bank, latched, opens=1e6, releases=0.0, **USUAL)
    assert (kept == far_x0).all()


def test_ratios_direction_is_the_gradient_of_the_density_ratio() -> None:
    """(alpha / sigma^2) (E_unsafe - E_benign) = grad log beta*: no heuristic, checked by differences."""
    bank, row, h = make_bank(), make_row(), 1e-4
    x, x0 = make_pair(near=bank.refs[3])
    unsafe, benign = (forward_kernels(x[:1], r, row, 1.0) for r in (bank.refs, bank.benign))
    mean = posterior_mean(unsafe, bank.refs, x0[:1]) - posterior_mean(benign, bank.benign, x0[:1])

    def log_beta(point: np.ndarray) -> float:
        both = (forward_kernels(point, r, row, 1.0) for r in (bank.refs, bank.benign))
        a, b = (log_mean_exp(k)[0] for k in both)
        return float(a - b)

    point = x[:1].astype(np.float64)
    steps = h * np.eye(D).reshape(D, *SHAPE[1:])
    gradient = np.array([(log_beta(point + s) - log_beta(point - s)) / (2 * h) for s in steps])
    close(row.alpha / row.sigma**2 * mean.ravel(), gradient)


def test_paper_keeps_the_numerator_alone() -> None:
    bank, row = make_bank(), make_row()
    x, x0 = make_pair(near=bank.refs[3])
    kernels = forward_kernels(x, bank.refs, row, 1.0)
    log_beta = log_mean_exp(kernels)
    weights = np.exp(kernels - kernels.max(-1, keepdims=True))
    mean = (weights / weights.sum(-1, keepdims=True)) @ bank.refs.astype(np.float64)
    usual, threshold = float(np.median(log_beta)), float(np.sort(log_beta)[0] + 1e-3)
    w = np.where(log_beta > threshold, np.minimum(np.exp(log_beta - usual), 3.0), 0.0)
    expected = x0 + w[:, None, None, None] * (x0 - mean.reshape(x0.shape))
    _, new_x0, evidence = paper(x, x0, row, bank, threshold=threshold, usual=usual, eta=1.0, log_cap=LOG3)
    close(new_x0, expected)
    assert (np.asarray(evidence.weight) > 0).tolist() == (log_beta > threshold).tolist()


@pytest.mark.parametrize("unit_x0", [False, True])
def test_official_is_the_released_step(unit_x0: bool) -> None:
    bank, row = make_bank(), make_row()
    x, x0 = make_pair(near=bank.refs[3])
    z = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)

    def unit(rows: np.ndarray) -> np.ndarray:
        pixels = rows.reshape(len(rows), 4, -1).astype(np.float64)
        return (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).reshape(len(rows), -1)

    refs = unit(bank.refs)
    assert np.allclose((refs**2).sum(1), 36)  # ||r_n||^2 = H W
    seen = unit(x0.reshape(3, -1)) if unit_x0 else x0.reshape(3, -1).astype(np.float64)
    w = np.exp(-np.linalg.norm(seen[:, None] - refs[None], axis=-1) / (2 * 3.15**2))
    den = w.sum(-1) + 1e-8
    threshold = float(np.sort(den)[0] + 1e-4)
    moved = x0 - 0.33 * ((w @ refs) / den[:, None]).reshape(x0.shape)
    moved = np.where((den > threshold)[:, None, None, None], moved, x0)
    eps = (x - row.alpha * x0.astype(np.float64)) / row.sigma
    noised = row.alpha * moved + row.sigma * z
    new_x, new_x0, evidence = official(
        x, x0, row, *units_of(bank), z, bandwidth=3.15, scale=0.33,
        threshold=threshold, margin=threshold, unit_x0=unit_x0,
    )  # fmt: skip
    close(new_x, noised)
    close(new_x0, (noised - row.sigma * eps) / row.alpha)
    close(evidence.value, den - threshold)


def test_official_survives_a_zero_pixel() -> None:
    rows = np.zeros((2, 16), np.float32)
    assert np.isfinite(unit_pixels(rows, 4)).all()


def test_spell_pushes_out_of_each_ball() -> None:
    bank = make_bank()
    x, x0 = make_pair(near=bank.refs[3])
    gaps = x0.reshape(3, 1, -1).astype(np.float64) - bank.refs[None]
    inside = np.maximum(9.0 / np.linalg.norm(gaps, axis=-1) - 1, 0)
    expected = x0 + 1.6 * (inside[..., None] * gaps).sum(1).reshape(x0.shape)
    _, new_x0, evidence = spell(x, x0, bank, radius=9.0, overcompensation=1.6)
    close(new_x0, expected)
    assert evidence.nearest.tolist() == [3, 3, 3]
    assert (np.asarray(evidence.value) > 0).all()


def test_sgf_follows_the_gradient_of_a_kernel_density() -> None:
    bank = make_bank()
    x, x0 = make_pair(near=bank.refs[3])
    gamma, step, h = 0.05, 2.0, 1e-5

    def density(point: np.ndarray) -> float:
        return float(np.exp(-gamma * ((point - bank.refs.astype(np.float64)) ** 2).sum(-1)).mean())

    point = x0[0].ravel().astype(np.float64)
    gradient = np.array([(density(point + h * e) - density(point - h * e)) / (2 * h) for e in np.eye(D)])
    _, new_x0, _ = sgf(x, x0, bank, gamma=gamma, step=step)
    close(np.asarray(new_x0)[0].ravel() - point, -step * gradient)


def test_bank_mean_is_the_same_push_for_all() -> None:
    bank = make_bank()
    x, x0 = make_pair()
    _, new_x0, _ = bank_mean(x, x0, bank, scale=0.3)
    close(new_x0, x0 - 0.3 * bank.refs.astype(np.float64).mean(0).reshape(1, *SHAPE[1:]))


def units_of(bank: Bank):
    units = unit_pixels(bank.refs, 4)
    return units, array_namespace(units).sum(units**2, axis=-1)


def run_all(x, x0, z, bank: Bank, row: Row):
    units = units_of(bank)
    xp = array_namespace(x)
    shut = xp.zeros(x.shape[0], dtype=xp.bool)
    return {
        "theorem": theorem(x, x0, row, bank, tau=1.0, log_eta=0.0, log_w_max=LOG3),
        "ratio": ratio(x, x0, row, bank, shut, opens=-1.0, releases=-5.0, **USUAL),
        "paper": paper(x, x0, row, bank, threshold=-1e3, usual=-50.0, eta=1.0, log_cap=LOG3),
        "official": official(x, x0, row, *units, z, bandwidth=3.15, scale=0.33, threshold=0.1,
                                   margin=0.1, unit_x0=False),
        "spell": spell(x, x0, bank, radius=9.0, overcompensation=1.6),
        "sgf": sgf(x, x0, bank, gamma=0.05, step=2.0),
        "bank-mean": bank_mean(x, x0, bank, scale=0.3),
    }  # fmt: skip


def test_each_sample_is_judged_alone() -> None:
    """One dangerous picture in a batch must not open, or close, the gate of its neighbours."""
    bank, row = make_bank(), make_row()
    near, far = make_pair(near=bank.refs[3]), make_pair(near=bank.benign[2])
    x, x0 = (np.concatenate([a[:1], b[:2]]) for a, b in zip(near, far, strict=True))
    z = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    batch = run_all(x, x0, z, bank, row)
    for i in range(3):
        alone = run_all(x[i : i + 1], x0[i : i + 1], z[i : i + 1], bank, row)
        for name, (_, new_x0, evidence) in alone.items():
            close(batch[name][1][i], new_x0[0])
            close(batch[name][2].weight[i], evidence.weight[0])
    weights = batch["ratio"][2].weight
    assert weights[0] > 0
    assert weights[1] == weights[2] == 0


def test_the_inputs_are_never_changed() -> None:
    bank = make_bank()
    x, x0 = make_pair(near=bank.refs[0])
    z = x.copy()
    before = [a.copy() for a in (x, x0, z, bank.refs, bank.benign)]
    run_all(x, x0, z, bank, make_row())
    for old, new in zip(before, (x, x0, z, bank.refs, bank.benign), strict=True):
        assert (old == new).all()


def test_the_same_lines_run_under_the_strict_array_api() -> None:
    """What passes here runs on CuPy: nothing of NumPy alone is used."""
    bank, row = make_bank(), make_row()
    x, x0 = make_pair(near=bank.refs[3])
    z = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    strict = [array_api_strict.asarray(a) for a in (x, x0, z)]
    banks = on(bank, array_api_strict)
    found = run_all(*strict, banks, row)
    for name, (new_x, new_x0, evidence) in run_all(x, x0, z, bank, row).items():
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
    x, x0 = (a * np.float32(scale) for a in make_pair(seed))
    for new_x, new_x0, evidence in run_all(x, x0, x, make_bank(n), make_row(alpha, sigma)).values():
        assert np.isfinite(new_x).all()
        assert np.isfinite(new_x0).all()
        assert np.isfinite(evidence.weight).all()


def test_a_bank_of_515_at_4x64x64_needs_no_large_temporary() -> None:
    """On a box with little memory the guard must cost its bank and hardly more."""
    n, batch, shape = 515, 2, (2, 4, 64, 64)
    plain, rng = make_bank(n, n, d=4 * 64 * 64), np.random.default_rng(0)
    axes = rng.standard_normal((128, 4 * 64 * 64)) / 256
    bank = bank_of(*(rows.reshape(n, *shape[1:]) for rows in (plain.refs, plain.benign)), axes=axes)
    x, x0, z = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    units, latents = units_of(bank), x.nbytes
    calls = {
        "ratio": lambda: ratio(x, x0, make_row(), bank, SHUT[:2], opens=0.0, releases=0.0,
                                     **USUAL | {"bandwidth": 80.0}),
        "paper": lambda: paper(x, x0, make_row(), bank, threshold=0.0, usual=0.0, eta=1.0,
                                     log_cap=LOG3),
        "official": lambda: official(x, x0, make_row(), *units, z, bandwidth=3.15, scale=0.33,
                                           threshold=0.0, margin=0.0, unit_x0=False),
        "spell": lambda: spell(x, x0, bank, radius=9.0, overcompensation=1.6),
        "sgf": lambda: sgf(x, x0, bank, gamma=0.05, step=2.0),
    }  # fmt: skip
    largest_allowed = n * batch * 4 + latents
    for name, call in calls.items():
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # the peak is a handful of arrays of at most that size at once; N x D would be 33 MB
        assert peak < 8 * largest_allowed, name
