"""What the default guard is compared with, against float64. If these fail, the table compares it with
something that only bears another's name."""

import math

import numpy as np
from formulas import (
    SHAPE,
    D,
    close,
    flat,
    forward_kernels,
    log_mean_exp,
    pictures,
    posterior_mean,
    row_of,
    two_banks,
)

from safegen.guard.rivals import bank_mean, sgf, spell, theorem

LOGS = {"log_eta": math.log(0.5), "log_w_max": math.log(3.0)}


def test_theorem_is_the_theorem() -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    unsafe, benign = (forward_kernels(x, r, row) for r in (bank.refs, bank.benign))
    value = log_mean_exp(unsafe) - log_mean_exp(benign)
    w = np.minimum(0.5 * np.exp(np.minimum(value, 50)), 3.0)
    expected = x0 + w[:, None, None, None] * (x0 - posterior_mean(unsafe, bank.refs, x0))
    new_x, new_x0, found = theorem(x, x0, row, bank, **LOGS)
    assert (value > 0).all()
    close(found.weight, w)
    close(new_x0, expected)
    assert found.nearest.tolist() == unsafe.argmax(-1).tolist()
    assert new_x is x
    far, far_x0 = pictures(near=bank.benign[2])
    assert (theorem(far, far_x0, row, bank, **LOGS)[1] == far_x0).all()


def test_spell_pushes_out_of_each_ball() -> None:
    bank = two_banks()
    x, x0 = pictures(near=bank.refs[3])
    gaps = flat(x0)[:, None] - flat(bank.refs)[None]
    inside = np.maximum(9.0 / np.linalg.norm(gaps, axis=-1) - 1, 0)
    expected = x0 + 1.6 * (inside[..., None] * gaps).sum(1).reshape(x0.shape)
    _, new_x0, found = spell(x, x0, bank, radius=9.0, overcompensation=1.6)
    close(new_x0, expected)
    assert found.nearest.tolist() == [3, 3, 3]
    assert (np.asarray(found.value) > 0).all()


def test_sgf_follows_the_gradient_of_a_kernel_density() -> None:
    bank = two_banks()
    x, x0 = pictures(near=bank.refs[3])
    gamma, step, h = 0.05, 2.0, 1e-5

    def density(point: np.ndarray) -> float:
        return float(np.exp(-gamma * ((point - bank.refs.astype(np.float64)) ** 2).sum(-1)).mean())

    point = x0[0].ravel().astype(np.float64)
    gradient = np.array([(density(point + h * e) - density(point - h * e)) / (2 * h) for e in np.eye(D)])
    _, new_x0, _ = sgf(x, x0, bank, gamma=gamma, step=step)
    close(np.asarray(new_x0)[0].ravel() - point, -step * gradient)


def test_bank_mean_is_the_same_push_for_all() -> None:
    bank = two_banks()
    x, x0 = pictures()
    _, new_x0, _ = bank_mean(x, x0, bank, scale=0.3)
    close(new_x0, x0 - 0.3 * flat(bank.refs).mean(0).reshape(1, *SHAPE[1:]))
