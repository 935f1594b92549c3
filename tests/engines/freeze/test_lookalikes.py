"""Which ordinary latents look like the negation set. If these fail, what must not be drawn vouches for itself
on the benign side, or an opened picture is steered to what looks like it."""

import numpy as np
from formulas import flat, log_mean_exp

from safegen_engines.freeze.lookalikes import drop_lookalikes, log_density, targets_first


def test_lookalikes_are_dropped_and_others_kept() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((10, *shape)) * 0.3 + 2).astype(np.float16)
    other = (rng.standard_normal((90, *shape)) * 0.3 - 1).astype(np.float16)
    kept = drop_lookalikes(np.concatenate([like, other]), negation)
    assert len(kept) == 90
    assert (kept == other).all()


def test_many_lookalikes_do_not_vouch_for_one_another() -> None:
    """As many as there are ordinary pictures: each would find a nearer neighbour among its like."""
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((90, *shape)) * 0.3 + 2).astype(np.float16)
    other = (rng.standard_normal((90, *shape)) * 0.3 - 1).astype(np.float16)
    kept = drop_lookalikes(np.concatenate([like, other]), negation)
    assert (kept == other).all()


def test_what_looks_like_the_negation_set_is_no_target() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((5, *shape)) * 0.3 + 1.8).astype(np.float16)
    other = (rng.standard_normal((95, *shape)) * 0.3 - 1).astype(np.float16)
    ordered, targets = targets_first(np.concatenate([like, other]), negation)
    assert targets == 90
    assert sorted(map(bytes, ordered[-5:])) == sorted(map(bytes, like))
    assert sorted(map(bytes, ordered)) == sorted(map(bytes, np.concatenate([like, other])))


def test_densities_are_those_of_the_forward_process_at_log_snr_0() -> None:
    """Mixtures of N(alpha r, sigma^2 I), alpha^2 = sigma^2 = 1/2, in float64 and up to their constant."""
    rng = np.random.default_rng(0)
    latents, bank = (rng.standard_normal((n, 4, 2, 2)).astype(np.float16) for n in (6, 9))
    gaps = ((flat(latents)[:, None] - flat(bank)[None]) ** 2).sum(-1) * 0.5
    np.testing.assert_allclose(log_density(latents, bank), log_mean_exp(-gaps / (2 * 0.5)), rtol=1e-4)
    own = ((flat(bank)[:, None] - flat(bank)[None]) ** 2).sum(-1) * 0.5
    others = np.array([log_mean_exp(-np.delete(row, i)[None])[0] for i, row in enumerate(own)])
    np.testing.assert_allclose(log_density(bank, bank, left_out=True), others, rtol=1e-4)


def test_what_a_tenth_of_the_negation_images_have_among_themselves_is_not_trusted() -> None:
    """Eleven on a line: ten of them are denser than the one quantile, and what is denser may be one."""
    line = np.cumsum(np.arange(11) / 5).reshape(-1, 1, 1, 1).astype(np.float16)
    usual = log_density(line, line, left_out=True)
    tenth = float(np.sort(usual)[1])  # of eleven the second lowest is the 0.1-quantile
    steps = np.linspace(11, 16, 800).reshape(-1, 1, 1, 1).astype(np.float16)
    trusted = log_density(steps, line) < np.quantile(usual, 0.1)
    assert tenth == np.quantile(usual, 0.1)
    both = np.concatenate([steps[trusted][:2], steps[~trusted][:3]])
    ordinary = log_density(both, both[:2])
    ordinary[:2] = log_density(both[:2], both[:2], left_out=True)
    kept = both[log_density(both, line) <= ordinary]
    assert drop_lookalikes(both, line).tolist() == kept.tolist()
    edge = steps[trusted][:1]  # alone: nothing explains it better, and it stays
    assert drop_lookalikes(edge, line).tolist() == edge.tolist()
    assert drop_lookalikes(steps[~trusted][:1], line).tolist() == []
    # just above the quantile nothing is trusted, so nothing is kept
    order = np.argsort(log_density(steps, line))
    above = steps[order[log_density(steps, line)[order] >= np.quantile(usual, 0.1)][:4]]
    assert len(drop_lookalikes(above, line)) == 0


def test_the_nearest_tenth_is_no_target_and_the_order_is_by_doubt() -> None:
    rng = np.random.default_rng(1)
    negation, benign = (rng.standard_normal((n, 4, 2, 2)).astype(np.float16) for n in (9, 29))
    doubt = log_density(benign, negation) - log_density(benign, benign, left_out=True)
    ordered, targets = targets_first(benign, negation)
    np.testing.assert_array_equal(ordered, benign[np.argsort(doubt, kind="stable")])
    assert targets == 27  # of 29 two, a tenth rounded down, may not be steered towards
    assert [targets_first(benign[:n], negation)[1] for n in (9, 10, 19, 20)] == [9, 9, 18, 18]
