"""Both banks and their densities against float64. If these fail, a gate counts other distances than it was
calibrated with."""

import math

import numpy as np
import pytest
from formulas import (
    SHAPE,
    D,
    close,
    evidence,
    flat,
    forward_kernels,
    log_mean_exp,
    pictures,
    posterior_mean,
    row_of,
    squared,
    two_banks,
)

from safegen.guard import bank as banks
from safegen.guard.bank import evidence_at, kernels_at, log_kernel, log_ratio, make_bank, on

AXES = (0.2 * np.random.default_rng(3).standard_normal((5, D))).astype(np.float32)


@pytest.mark.parametrize("axes", [None, AXES])
@pytest.mark.parametrize("bandwidth", [1.0, 4.0, 30.0])
def test_the_evidence_is_the_ratio_of_two_densities_at_the_foreseen_picture(axes, bandwidth: float) -> None:
    bank = two_banks(axes=axes)
    _, x0 = pictures(near=bank.refs[3])
    close(evidence_at(x0, bank, bandwidth), evidence(x0, bank, bandwidth, axes))


@pytest.mark.parametrize("axes", [None, AXES])
def test_kernels_are_gaussians_of_the_gates_distances(axes) -> None:
    bank = two_banks(axes=axes)
    _, x0 = pictures(near=bank.refs[3])
    unsafe, benign = kernels_at(x0.reshape(3, -1), bank, 4.0)
    expected = [-squared(x0, rows, axes) / (2 * 4.0**2) for rows in (bank.refs, bank.benign)]
    # both without the same term of x0 alone
    close(unsafe - benign[:, :1], expected[0] - expected[1][:, :1])
    close(benign - benign[:, :1], expected[1] - expected[1][:, :1])


def test_more_references_alone_are_no_more_evidence() -> None:
    """Both sides are means over their bank: a bank twice over says the same."""
    bank = two_banks()
    _, x0 = pictures(near=bank.refs[3])
    twice = make_bank(
        np.concatenate([bank.refs.reshape(-1, *SHAPE[1:])] * 2), bank.benign.reshape(-1, *SHAPE[1:])
    )
    close(evidence_at(x0, twice, 4.0), evidence_at(x0, bank, 4.0))


def test_kernels_at_x_t_are_the_forward_process() -> None:
    bank, row = two_banks(), row_of()
    x, _ = pictures(near=bank.refs[3])
    found, expected = log_kernel(x, bank.refs, bank.refs_sq, row), forward_kernels(x, bank.refs, row)
    close(found - found[:, :1], expected - expected[:, :1])
    value, unsafe, benign = log_ratio(x, bank, row)
    close(value, log_mean_exp(expected) - log_mean_exp(forward_kernels(x, bank.benign, row)))
    assert (unsafe.shape, benign.shape) == ((3, 7), (3, 9))


def test_means_and_pushes_are_those_of_the_kernels() -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    kernels = log_kernel(x, bank.refs, bank.refs_sq, row)
    mean = posterior_mean(forward_kernels(x, bank.refs, row), bank.refs, x0)
    close(banks.mean_of_refs(banks.softmax(kernels), bank.refs, x0), mean)
    weight = np.array([0.0, 0.5, 2.0], np.float32)
    close(banks.push(x0, weight, kernels, bank), x0 + weight[:, None, None, None] * (x0 - mean))


def test_distances_and_sums_in_the_log_domain() -> None:
    bank, (_, x0) = two_banks(), pictures()
    close(banks.squared_distances(x0, bank.refs, bank.refs_sq), squared(x0, bank.refs))
    itself = bank.refs.reshape(-1, *SHAPE[1:]) * np.float32(100)
    zeros = np.diagonal(banks.squared_distances(itself, flat(itself).astype(np.float32), 1e4 * bank.refs_sq))
    assert (zeros >= 0).all()
    values = np.array([[-1e4, -1e4 - 1.0], [3.0, 1.0]])
    close(banks.logsumexp(values), values[:, 0] + np.log(1 + np.exp(values[:, 1] - values[:, 0])))
    close(banks.logmeanexp(values), banks.logsumexp(values) - math.log(2))


def test_targets_are_the_first_benign_latents_alone() -> None:
    assert two_banks(targets=4).target_mask.tolist() == [0.0] * 4 + [-np.inf] * 5
    assert two_banks().target_mask.tolist() == [0.0] * 9


@pytest.mark.parametrize("axes", [None, AXES])
def test_banks_are_float32_with_their_squared_norms_on_every_device(axes) -> None:
    rng = np.random.default_rng(0)
    refs, benign = (rng.standard_normal((n, *SHAPE[1:])).astype(np.float16) for n in (7, 9))
    bank = on(make_bank(refs, benign, 8, axes), np)
    for rows, lengths, given in ((bank.refs, bank.refs_sq, refs), (bank.benign, bank.benign_sq, benign)):
        assert rows.dtype == lengths.dtype == np.float32
        np.testing.assert_array_equal(rows, given.reshape(len(given), -1))
        np.testing.assert_allclose(lengths, (flat(given) ** 2).sum(1), rtol=1e-5)
    assert bank.target_mask.tolist() == [0.0] * 8 + [-np.inf]
    if axes is None:
        assert bank.metric is None
        return
    _, along, along_sq, safe, safe_sq = bank.metric
    for rows, found, lengths in ((bank.refs, along, along_sq), (bank.benign, safe, safe_sq)):
        np.testing.assert_allclose(found, rows @ axes.T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(lengths, (found**2).sum(1), rtol=1e-5)
