"""The default guard against its formulas in float64. If these fail, the product steers away from something
else than what its users froze, or changes pictures that it promised to leave alone."""

import math

import numpy as np
import pytest
from formulas import (
    SHAPE,
    SHUT,
    D,
    close,
    evidence,
    forward_kernels,
    log_mean_exp,
    pictures,
    posterior_mean,
    row_of,
    squared,
    target,
    two_banks,
)

from safegen.guard.ratio import Numbers, ratio

H = 5.0
OPEN, CLOSED = -1e4, 1e4
AXES = (0.2 * np.random.default_rng(3).standard_normal((5, D))).astype(np.float32)


@pytest.mark.parametrize("axes", [None, AXES])
@pytest.mark.parametrize("repulsion", [0.0, 0.7, 2.0])
def test_an_open_picture_becomes_the_benign_mean_pushed_off_the_negation_set(axes, repulsion: float) -> None:
    """The gate looks at x0 by its axes; the means are those given x_t, by plain distances."""
    bank, row = two_banks(axes=axes), row_of()
    x, _ = pictures(near=bank.benign[6])
    _, x0 = pictures(seed=2, near=bank.refs[3])
    new_x, new_x0, found = ratio(x, x0, row, bank, SHUT, Numbers(OPEN, H, repulsion))
    close(found.value, evidence(x0, bank, H, axes) - OPEN)
    close(new_x0, target(x, bank, row, repulsion))
    assert new_x is x
    assert found.weight.tolist() == [1.0, 1.0, 1.0]


def test_the_gate_opens_above_its_threshold_and_each_picture_is_judged_alone() -> None:
    """Bit for bit the unguarded picture where it stays shut."""
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    value = evidence(x0, bank, H)
    order = np.argsort(value)
    threshold = float(value[order[1]]) + 0.4 * float(value[order[2]] - value[order[1]])
    _, new_x0, found = ratio(x, x0, row, bank, SHUT, Numbers(threshold, H, 1.0))
    close(found.value + threshold, value)
    shut, opened = order[:2], order[2:]
    assert found.weight[shut].tolist() == [0.0, 0.0]
    assert found.weight[opened].tolist() == [1.0]
    assert new_x0[shut].tobytes() == x0[shut].tobytes()
    close(new_x0[opened], target(x, bank, row, 1.0)[opened])


@pytest.mark.parametrize("above", [-1e-3, 1e-3])
def test_evidence_hardly_above_the_threshold_opens_and_hardly_below_does_not(above: float) -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures()
    value = float(evidence(x0, bank, H)[0])
    found = ratio(x, x0, row, bank, SHUT, Numbers(value - above, H, 1.0))[2]
    assert (found.weight[0], float(found.value[0]) > 0) == ((1.0, True) if above > 0 else (0.0, False))


def test_a_gate_that_has_opened_stays_open() -> None:
    """A picture let go just below the threshold would still be closer to the negation set than to others."""
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    latched = np.array([True, False, False])
    _, new_x0, found = ratio(x, x0, row, bank, latched, Numbers(CLOSED, H, 1.0))
    assert (found.value < 0).all()
    assert found.weight.tolist() == [1.0, 0.0, 0.0]
    close(new_x0[:1], target(x, bank, row, 1.0)[:1])
    assert new_x0[1:].tobytes() == x0[1:].tobytes()


@pytest.mark.parametrize(
    ("log_snr", "acts"), [(-8.0, True), (-1e-3, True), (0.0, False), (1e-3, False), (5.0, False)]
)
def test_the_latch_lets_go_where_there_is_more_picture_than_noise(log_snr: float, acts: bool) -> None:
    """From log-SNR 0 on the content is settled: what the gate passes by now is the model's to finish."""
    alpha = 1 / math.sqrt(1 + math.exp(-log_snr))
    sigma = alpha * math.exp(-log_snr / 2)
    bank, row = two_banks(), row_of(alpha, sigma)
    x, x0 = pictures(near=bank.refs[3])
    _, new_x0, found = ratio(x, x0, row, bank, np.ones(3, bool), Numbers(CLOSED, H, 1.0))
    assert (found.value < 0).all()
    assert found.weight.tolist() == [float(acts)] * 3
    assert (new_x0 != x0).any() == acts
    if not acts:
        assert new_x0.tobytes() == x0.tobytes()


@pytest.mark.parametrize("log_snr", [-8.0, 0.0, 5.0])
def test_an_open_gate_acts_at_every_level(log_snr: float) -> None:
    """Else a picture drawn from an image of the negated thing, or known by heart, ends as it began."""
    alpha = 1 / math.sqrt(1 + math.exp(-log_snr))
    bank, row = two_banks(), row_of(alpha, alpha * math.exp(-log_snr / 2))
    x, x0 = pictures(near=bank.refs[3])
    _, new_x0, found = ratio(x, x0, row, bank, SHUT, Numbers(OPEN, H, 1.0))
    assert (found.value > 0).all() and found.weight.tolist() == [1.0] * 3
    close(new_x0, target(x, bank, row, 1.0))


def test_targets_are_the_first_benign_latents_alone() -> None:
    """What comes after them looks like the negation set, and would keep the picture what it was."""
    bank, every, row = two_banks(targets=4), two_banks(), row_of()
    x, x0 = pictures(near=bank.benign[6])
    found, whole = (ratio(x, x0, row, b, SHUT, Numbers(OPEN, H, 0.5)) for b in (bank, every))
    close(found[1], target(x, bank, row, 0.5, targets=4))
    close(whole[1], target(x, bank, row, 0.5))
    assert (found[2].value == whole[2].value).all()  # all of them bear witness
    unmasked = ratio(x, x0, row, bank._replace(target_mask=None), SHUT, Numbers(OPEN, H, 0.5))
    close(unmasked[1], whole[1])


def test_the_nearest_reference_is_that_of_the_gate() -> None:
    """Of the kernels at x0, not of those at x_t: a verdict names the image that the gate saw."""
    bank = two_banks()
    x, _ = pictures(near=bank.refs[1])
    _, x0 = pictures(seed=2, near=bank.refs[5])
    found = ratio(x, x0, row_of(), bank, SHUT, Numbers(OPEN, H, 1.0))[2]
    assert forward_kernels(x, bank.refs, row_of()).argmax(-1).tolist() == [1, 1, 1]
    assert found.nearest.tolist() == [5, 5, 5]
    x0 = (0.6 * bank.refs[5] + 0.4 * np.random.default_rng(9).standard_normal((3, D))).astype(np.float32)
    axes = (x0.mean(0) - bank.refs[2])[None] / np.linalg.norm(x0.mean(0) - bank.refs[2])
    x0 = x0.reshape(SHAPE)
    for by, nearest in ((None, 5), (axes, 2)):
        counted = squared(x0, bank.refs, by).argmin(-1).tolist()
        found = ratio(x, x0, row_of(), two_banks(axes=by), SHUT, Numbers(OPEN, H, 1.0))[2]
        assert found.nearest.tolist() == counted == [nearest] * 3


def test_the_gate_judges_what_was_foreseen_before_a_text_guard() -> None:
    """A text guard hides what was asked for from the gate, and need not keep it from being drawn."""
    bank, row = two_banks(), row_of()
    x, plain = pictures(near=bank.refs[3])
    _, x0 = pictures(near=bank.benign[6])
    _, moved, found = ratio(x, x0, row, bank, SHUT, Numbers(0.0, H, 1.0), plain)
    close(found.value, evidence(plain, bank, H))
    assert (evidence(x0, bank, H) < 0).all()
    close(moved, target(x, bank, row, 1.0))
    kept = ratio(x, plain, row, bank, SHUT, Numbers(0.0, H, 1.0), x0)[1]
    assert kept.tobytes() == plain.tobytes()


def test_the_direction_is_the_gradient_of_the_density_ratio() -> None:
    """(alpha / sigma^2) (E_r - E_s) = grad log beta*: no heuristic, checked by differences."""
    bank, row, h = two_banks(), row_of(), 1e-4
    x, x0 = pictures(near=bank.refs[3])
    unsafe, benign = (forward_kernels(x[:1], r, row) for r in (bank.refs, bank.benign))
    mean = posterior_mean(unsafe, bank.refs, x0[:1]) - posterior_mean(benign, bank.benign, x0[:1])

    def log_beta(point: np.ndarray) -> float:
        both = (forward_kernels(point, r, row) for r in (bank.refs, bank.benign))
        a, b = (log_mean_exp(k)[0] for k in both)
        return float(a - b)

    point = x[:1].astype(np.float64)
    steps = h * np.eye(D).reshape(D, *SHAPE[1:])
    gradient = np.array([(log_beta(point + s) - log_beta(point - s)) / (2 * h) for s in steps])
    close(row.alpha / row.sigma**2 * mean.ravel(), gradient)
