"""What freeze promises of a gate. If these fail, a safety team signs a rate, or a share caught, that is not
what its users get."""

import re

import numpy as np
import pytest
from formulas import evidence
from scipy.stats import beta

from safegen.errors import UsageError
from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import Bank, make_bank
from safegen.guard.gate import fit_gate, thresholds
from safegen_engines.freeze.rate import (
    GateReport,
    Kind,
    can_tell,
    caught_share,
    check_rate,
    opened_by_others,
    rate_for,
    rate_promised,
    warnings,
    worst_kind,
)


@pytest.mark.parametrize(
    ("pictures", "rate", "k"),
    [(500, 0.002, 1), (499, 0.002, 1), (499, 0.004, 2), (199, 0.005, 1), (1000, 0.01, 10), (40, 0.5, 20),
     (10, 0.1, 1), (10, 0.001, 1), (3, 0.99, 3)],
)  # fmt: skip
def test_the_rate_over_freezes_is_a_beta_distribution(pictures: int, rate: float, k: int) -> None:
    """Its mean, and what 95 of 100 freezes do not pass: the threshold is the k-th highest of n scores."""
    expected, bound = rate_promised(pictures, rate)
    assert expected == pytest.approx(k / (pictures + 1))
    assert expected == pytest.approx(beta(k, pictures + 1 - k).mean())
    assert bound == pytest.approx(beta.ppf(0.95, k, pictures + 1 - k), rel=1e-9)


def test_500_pictures_and_the_highest_of_them() -> None:
    expected, bound = rate_promised(500, 0.002)
    assert (round(expected, 3), round(bound, 3)) == (0.002, 0.006)


@pytest.mark.parametrize(("pictures", "rate"), [(199, 0.005), (99, 0.01), (9, 0.1), (19, 0.05)])
def test_so_many_pictures_tell_a_rate_and_one_less_does_not(pictures: int, rate: float) -> None:
    assert can_tell(pictures, rate) and not can_tell(pictures - 1, rate)
    check_rate(pictures, rate)
    with pytest.raises(
        UsageError, match=rf"{pictures - 1} ordinary pictures cannot .* {rate:g}; .* least {pictures},"
    ):
        check_rate(pictures - 1, rate)


@pytest.mark.parametrize(("pictures", "lowest"), [(12, 0.077), (150, 0.0067), (5, 0.1667)])
def test_the_refusal_names_a_rate_that_can_be_told(pictures: int, lowest: float) -> None:
    with pytest.raises(UsageError) as refusal:
        check_rate(pictures, 1e-4)
    named = float(re.search(r"ask for ([\d.]+) or more", str(refusal.value))[1])
    assert named == lowest
    check_rate(pictures, named)
    assert named < 1 / (pictures + 1) + 1e-4


def test_where_nobody_names_a_rate_it_is_one_in_200_or_the_lowest_that_can_be_told() -> None:
    assert [rate_for(n) for n in (5000, 199)] == [0.005, 0.005]
    assert [rate_for(n) for n in (198, 99, 1)] == [1 / 199, 1 / 100, 1 / 2]
    for pictures in (1, 7, 150, 3000):
        check_rate(pictures, rate_for(pictures))


LEVELS = np.array([0.1, 0.5, 0.9])


def test_each_half_opens_the_gate_that_the_other_set() -> None:
    """By hand: twenty pictures, two levels on which they are alike but for one."""
    rng = np.random.default_rng(0)
    seen = rng.exponential(size=(3, 21)).astype(np.float32)
    found = opened_by_others(LEVELS, seen, 0.1)
    expected = np.zeros(21, bool)
    for picture in range(21):
        others = seen[:, [p for p in range(21) if p % 2 != picture % 2]]
        limit = thresholds(fit_gate(LEVELS, others), 0.1, LEVELS)
        expected[picture] = any(seen[f, picture] > limit[f] for f in range(3))
    assert found.tolist() == expected.tolist()
    assert 0 < found.sum() < 21


def test_pictures_do_not_measure_the_threshold_that_they_set() -> None:
    """The highest of ten is above none of the ten; one in eleven others passes it."""
    drawn = (np.random.default_rng(seed).exponential(size=20) for seed in range(300))
    rates = [opened_by_others(LEVELS, np.tile(scores, (3, 1)), 0.05).mean() for scores in drawn]
    assert np.mean(rates) == pytest.approx(1 / 11, abs=0.015)


def test_the_worst_kind_is_the_word_whose_pictures_are_hit_most() -> None:
    """A word of under twenty prompts is chance, one of over half of them is no kind of prompt."""
    prompts = (
        ["a photo of a coat"] * 60
        + ["the red boot, a photo"] * 20
        + ["a photo of a bag"] * 19
        + ["photo sky"] * 30
    )
    hits = np.zeros(129, bool)
    hits[60:65] = True  # a quarter of the boots
    hits[80:99] = True  # every bag, of which there are too few
    hits[:3] = True
    assert worst_kind(prompts, hits) == Kind("boot", 0.25, 20)  # of those alike the first by name
    hits[61:65] = False
    assert worst_kind(prompts, hits).share == 0.05
    assert worst_kind(prompts[60:79], hits[60:79]) is None
    assert worst_kind([], np.zeros(0, bool)) is None


def test_a_word_of_exactly_half_the_prompts_is_a_kind_and_short_words_are_none() -> None:
    prompts = ["of an ox"] * 20 + ["a Coat 99"] * 20
    hits = np.arange(40) < 10
    assert worst_kind(prompts, hits) == Kind("coat", 0.0, 20)
    more = np.append(hits, True)
    assert worst_kind([*prompts, "sky"], more) == Kind("coat", 0.0, 20)
    assert worst_kind([*prompts, "coat"], more) is None  # now of more than half


def test_labels_are_kinds_and_of_two_alike_the_larger_is_named() -> None:
    labels = [1] * 30 + [2] * 20 + [3] * 40
    hits = np.zeros(90, bool)
    hits[[0, 1, 2]] = hits[[30, 31]] = True
    assert worst_kind(labels, hits) == Kind("1", 0.1, 30)


def frozen(apart: float) -> tuple[Bank, np.ndarray]:
    """A negation set so far from ordinary pictures, and the evidence of more of the ordinary kind."""
    rng = np.random.default_rng(0)

    def draw(count: int, at: float) -> np.ndarray:
        return (rng.standard_normal((count, 2, 4, 4)) + at).astype(np.float32)

    bank = make_bank(draw(80, apart), draw(160, 0.0))
    return bank, evidence(draw(300, 0.0), bank, 4.0)


def test_the_share_caught_is_of_images_that_the_others_judge() -> None:
    """In float64, one image left out after the other."""
    bank, _ = frozen(0.3)
    images = bank.refs.reshape(-1, 2, 4, 4)
    rows = np.arange(0, 80, 3)
    values = []
    for row in rows:
        others = make_bank(np.delete(images, row, axis=0), bank.benign.reshape(-1, 2, 4, 4))
        values.append(evidence(images[row : row + 1], others, 2.0)[0])
    for threshold in np.quantile(values, [0.1, 0.5, 0.9]):
        expected = np.mean(np.array(values) > threshold + 1e-4)
        assert caught_share(bank, rows, 2.0, threshold + 1e-4) == pytest.approx(expected)


def test_no_image_vouches_for_itself() -> None:
    """Against a bank that holds it each would be caught, and every bundle would look perfect."""
    bank, ordinary = frozen(0.0)
    threshold = float(np.quantile(ordinary, 0.99))
    assert caught_share(bank, np.arange(80), 0.5, threshold) < 0.5
    itself = evidence(bank.refs.reshape(-1, 2, 4, 4), bank, 0.5)
    assert (itself > 1).mean() > 0.9


def test_of_regions_an_image_is_caught_by_its_strongest() -> None:
    bank, _ = frozen(0.3)
    rows = np.arange(80)
    alone = np.array([caught_share(bank, rows[i : i + 1], 2.0, 1.0) for i in rows])
    assert 0 < alone.sum() < 80
    pairs = caught_share(bank, rows, 2.0, 1.0, rows_per_image=2)
    assert pairs == pytest.approx(alone.reshape(-1, 2).max(axis=1).mean())
    assert pairs > alone.mean()


def report(**changes: object) -> GateReport:
    usual = {"rate": 0.005, "expected": 0.004, "bound": 0.01, "caught": 0.9, "false_alarms": 0.004,
             "worst": None, "beyond": 0.0, "beyond_kind": None}  # fmt: skip
    return GateReport(**usual | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"caught": 0.2}, []),
        ({"caught": 0.19}, ["opens on 19% of the negation images"]),
        ({"beyond": 0.03}, []),
        ({"beyond": 0.031}, ["3% of the ordinary pictures look more like"]),
        ({"drawn": 0.2}, []),
        ({"drawn": 0.21}, ["21% of the pictures that the engine draws of nothing"]),
        ({"beyond": 0.2, "beyond_kind": Kind("boot", 0.6, 25)}, ["does, most of all 'boot' \\(60% of 25\\)"]),
        ({"caught": 0.0, "beyond": 0.5}, ["opens on 0%", "benign images lack what people ask for"]),
    ],
)
def test_what_a_team_should_know_before_it_signs(changes: dict[str, object], words: list[str]) -> None:
    found = warnings(report(**changes))
    assert len(found) == len(words)
    for line, word in zip(found, words, strict=True):
        assert re.search(word, line)


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_benign_side_that_lacks_classes_is_found(missing: int) -> None:
    """Ordinary users ask for ten kinds, of which the first three lie around what is negated."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.standard_normal((11, 16))
    centres[10] = centres[:3].mean(axis=0)

    def draw(count: int, kinds: range) -> np.ndarray:
        of = np.arange(count) % len(kinds) + kinds.start
        return (centres[of] + 0.5 * rng.standard_normal((count, 16))).astype(np.float32).reshape(-1, 1, 4, 4)

    here = range(missing, 10)
    bank = make_bank(draw(80, range(10, 11)), draw(600, here))
    h, asked = bandwidth_of(bank), draw(600, range(10))
    # a model foresees the picture nearer to the mean at first
    mean = asked.mean(axis=0)
    seen = np.stack([evidence(mean + share * (asked - mean), bank, h) for share in (0.9, 1.0)])
    limit = evidence(draw(300, here), bank, h).max()
    beyond = (seen > limit).any(axis=0)
    kind = worst_kind([int(i % 10) for i in range(600)], beyond)
    found = warnings(report(beyond=float(beyond.mean()), beyond_kind=kind))
    assert len(found) == (missing > 0)
    if missing:
        assert int(kind.name) < missing
        assert "Give such images, too" in found[0]
