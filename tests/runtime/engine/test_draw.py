"""Pictures as they are finished. If these fail, a long run needs all memory, or loses what it has drawn."""

import gc
import itertools
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from safegen import Picture, Pipeline, Request
from safegen.errors import BundleError, GuardError, UsageError
from safegen.format.result import Watch, judge


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load()


def same(ours: Picture, theirs: Picture) -> bool:
    """ONNX Runtime may add in another order at another batch size: one rounding step of 255."""
    a, b = (np.asarray(p.image).astype(int) for p in (ours, theirs))
    return np.abs(a - b).max() <= 1 and ours.settings == theirs.settings


def test_a_billion_pictures_begin_at_once(pipeline: Pipeline) -> None:
    pictures = pipeline.draw(Request(prompt="a coat", n=10**9, seed=5, steps=2))
    first, second = next(pictures), next(pictures)
    [alone] = pipeline.draw(Request(prompt="a coat", seed=5, steps=2))
    assert same(first, alone)
    assert second.settings["seed"] == 6


def test_pictures_that_were_handed_out_are_kept_by_nobody(pipeline: Pipeline) -> None:
    """Else memory grows with n: at most a batch is alive."""
    handed_out, while_drawing = [], []

    def alive() -> int:
        gc.collect()
        return sum(picture() is not None for picture in handed_out)

    request = Request(prompt="a coat", n=12, steps=2, batch_size=3)
    for picture in pipeline.draw(request, lambda step: while_drawing.append(alive())):
        handed_out.append(weakref.ref(picture))
        assert alive() <= 3
    assert len(handed_out) == 12
    assert max(while_drawing) == 1  # the caller's own


def test_pictures_are_handed_out_batch_by_batch(pipeline: Pipeline) -> None:
    steps = []
    pictures = pipeline.draw(Request(prompt="a coat", n=5, steps=2, batch_size=2), steps.append)
    assert steps == []
    counts = [len(steps) for _ in pictures]
    assert counts == [2, 2, 4, 4, 6]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"steps": 0}, UsageError),  # drew the engine's default
        ({"n": 0}, UsageError),
        ({"batch_size": 0}, UsageError),
        ({"seed": -1}, UsageError),
        ({"seed": 2**64 - 1, "n": 2}, UsageError),
        ({"solver": ""}, UsageError),
        ({"prompt": None}, UsageError),
        ({"class_label": 1}, UsageError),
        ({"guard": "spell", "size": (64, 32)}, BundleError),
        ({"guard": "official", "solver": "dpm++2m", "steps": 4}, UsageError),
        ({"text_guard": "sld", "guidance_scale": 1.0}, UsageError),
        ({"concepts": ("x",)}, UsageError),
        ({"strength": 0.5}, UsageError),
        ({"init": Image.new("RGB", (32, 32)), "strength": 0.0}, UsageError),
        ({"init": Image.new("RGB", (32, 32)), "solver": "lcm"}, UsageError),
    ],
)  # fmt: skip
def test_everything_is_refused_before_the_first_picture(pipeline: Pipeline, wrong: dict, error: type) -> None:
    """At the call, not at the first picture: a second request that has no meaning spoils no long run."""
    good = Request(prompt="a coat", steps=2)
    for requests in (replace(good, **wrong), [good, replace(good, **wrong)]):
        with pytest.raises(error):
            pipeline.draw(requests)


def test_a_guard_that_needs_a_bundle_is_refused_at_the_call(pipeline: Pipeline) -> None:
    with pytest.raises(GuardError, match="no bundle is open"):
        Pipeline(pipeline.engine, None).draw(Request(prompt="a coat"))


def test_requests_that_differ_in_what_they_show_alone_share_batches(pipeline: Pipeline) -> None:
    sizes = []
    common = {"steps": 2, "batch_size": 4}
    some = [
        Request(prompt="a coat", seed=1, **common),
        Request(prompt="a bag", seed=9, n=3, **common),
        Request(prompt="a coat", seed=4, guidance_scale=2.0, **common),
        Request(prompt="a bag", seed=4, guidance_scale=2.0, **common),
    ]
    drawn = list(pipeline.draw(iter(some), lambda step: sizes.append(len(step.x))))
    assert sizes == [4, 4, 2, 2]
    assert [p.settings["seed"] for p in drawn] == [1, 9, 10, 11, 4, 4]
    alone = itertools.chain.from_iterable(pipeline.draw(request) for request in some)
    assert all(same(ours, theirs) for ours, theirs in zip(drawn, alone, strict=True))
    assert list(pipeline.draw([])) == []


@pytest.mark.parametrize("guard", ["ratio", "official", "renoise-only"])
@pytest.mark.parametrize("text_guard", [None, "sld:max", "safree"])
def test_walks_that_take_turns_draw_what_they_draw_alone(
    pipeline, guard: str, text_guard: str | None
) -> None:
    """A state that is kept anywhere but in the loop would be that of the other walk."""
    common = {"n": 2, "seed": 3, "steps": 3, "guard": guard, "solver": "ddpm", "text_guard": text_guard}
    asked = [Request(prompt=prompt, **common, batch_size=1) for prompt in ("a sneaker", "a bag")]
    alone = [list(pipeline.draw(request)) for request in asked]
    turns = zip(*(pipeline.draw(request) for request in asked), strict=True)
    for ours, theirs in zip(zip(*turns, strict=True), alone, strict=True):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(ours, theirs, strict=True))


def test_the_same_seed_at_every_batch_size_also_over_several_requests(pipeline: Pipeline) -> None:
    asked = [Request(prompt=p, n=2, seed=3, steps=3) for p in ("a sneaker", "a bag", "a coat")]
    one, five = (list(pipeline.draw(replace(r, batch_size=size) for r in asked)) for size in (1, 5))
    assert all(same(a, b) for a, b in zip(one, five, strict=True))


def seen(evidence: float, weight: float) -> Watch:
    return Watch(0, 0.0, 0.0, evidence, weight, 0)


def test_a_gate_that_was_open_is_told_apart_from_a_picture_that_was_changed() -> None:
    trace = [seen(-1, 0), seen(2, 1), seen(-1, 0.5), seen(-1, 0), seen(-2, 0)]
    latching, other = (judge("x", 5, trace, latches=latches) for latches in (True, False))
    assert (latching.opened, latching.corrected) == (4, 2)
    assert (other.opened, other.corrected) == (1, 2)
    assert latching.strongest_evidence == 2


def test_a_guard_without_strength_opens_and_corrects_nothing(pipeline: Pipeline) -> None:
    [picture] = pipeline("a sneaker", steps=4, guard="renoise-only")
    assert picture.verdict.opened > 0
    assert picture.verdict.corrected == 0


def test_ratio_s_gate_stays_open(pipeline: Pipeline) -> None:
    [picture] = pipeline("a sneaker", seed=1, steps=20)
    first = next(i for i, w in enumerate(picture.verdict.trace) if w.evidence > 0)
    assert picture.verdict.opened == 20 - first
    assert picture.verdict.corrected == sum(w.weight > 0 for w in picture.verdict.trace)
    assert picture.metadata()["verdict"]["corrected"] == picture.verdict.corrected
