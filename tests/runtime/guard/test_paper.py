"""The paper's own approximation in float64. If these fail, the table compares with what only has its name."""

import math

import numpy as np
from formulas import close, forward_kernels, log_mean_exp, pictures, posterior_mean, row_of, two_banks

from safegen.guard.paper import paper


def test_paper_keeps_the_numerator_alone() -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    kernels = forward_kernels(x, bank.refs, row)
    log_beta = log_mean_exp(kernels)
    usual, threshold = float(np.median(log_beta)), float(np.sort(log_beta)[0] + 0.1)
    w = np.where(log_beta > threshold, np.minimum(0.8 * np.exp(log_beta - usual), 0.8 * 3.0), 0.0)
    expected = x0 + w[:, None, None, None] * (x0 - posterior_mean(kernels, bank.refs, x0))
    new_x, new_x0, found = paper(
        x, x0, row, bank, threshold=threshold, usual=usual, eta=0.8, log_cap=math.log(3.0)
    )
    assert new_x is x
    close(new_x0, expected)
    close(found.weight, w)
    close(found.value + threshold, log_beta)
    assert (w == 0).sum() == 1
    assert new_x0[w == 0].tobytes() == x0[w == 0].tobytes()
    assert found.nearest.tolist() == kernels.argmax(-1).tolist()
