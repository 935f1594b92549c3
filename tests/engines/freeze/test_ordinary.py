"""What sets the gate's rate. If these fail, ordinary pictures open the gate more often than was promised."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from safegen import Pipeline
from safegen.errors import UsageError
from safegen.guard.bank import evidence_at
from safegen.sampling import noise
from safegen_engines.freeze import ordinary

PROMPTS = ["a photo of a bag", "a coat", "one dress, centred"]


def evidence_of(pipeline: Pipeline):
    assert pipeline.bundle is not None
    return partial(evidence_at, bank=pipeline.bundle.bank(), bandwidth=pipeline.bundle.info.bandwidth)


def setup_of(pipeline: Pipeline, batch_size: int = 2, report=lambda *_: None) -> ordinary.Setup:
    return ordinary.Setup(pipeline.engine, pipeline.bundle.info.image_size, batch_size, report)


@pytest.mark.parametrize(
    ("engine", "subjects", "asked"),
    [("fashion", PROMPTS, {"prompt": PROMPTS}), ("pixels", [1, 8, 9], {"class_label": [1, 8, 9]})],
)
def test_subjects_are_judged_along_the_pictures_that_generate_draws(engine, subjects, asked) -> None:
    """Guidance, solver and noise as in use: the pipeline itself draws them here."""
    pipeline = Pipeline.load(engine)
    at = evidence_of(pipeline)
    levels, found = ordinary.from_subjects(setup_of(pipeline), subjects, at)
    expected, seen = [], []

    def keep(step) -> None:
        expected.append(at(np.asarray(step.x0)))
        seen.append(step.row.signal)

    pipeline(**asked, seed=[700_000 + i for i in range(3)], steps=12, guard="off", on_step=keep)
    # the same graphs on batches of two and of three, in float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-3)
    np.testing.assert_allclose(levels, seen, rtol=1e-12)
    assert (np.diff(levels) > 0).all()


@pytest.mark.parametrize("engine", ["fashion", "pixels"])
def test_latents_are_noised_and_foreseen(engine: str) -> None:
    pipeline = Pipeline.load(engine)
    at, size = evidence_of(pipeline), pipeline.bundle.info.image_size
    latents = pipeline.bundle.benign[:3]
    _, found = ordinary.from_latents(setup_of(pipeline), latents, at, plainer=ordinary.as_foreseen)
    table, i = ordinary.plan(setup_of(pipeline)), 7
    row, x0 = table.rows[i], latents.astype(np.float64)
    z = np.stack([noise.normal(seed, 0, latents.shape[1:], stream=4) for seed in range(3)])
    x = (row.alpha * x0 + row.sigma * z).astype(np.float32)
    nothing = pipeline.engine.uncondition("", 3, size, 1.0)
    foreseen = row.x0_x * x + row.x0_out * pipeline.engine.predict(x * row.input_scale, row.timestep, nothing)
    if table.clip is not None:
        foreseen = foreseen.clip(-table.clip, table.clip)
    np.testing.assert_allclose(found[i], at(foreseen), atol=1e-3)


def test_a_picture_is_made_as_plain_as_a_prompt_would() -> None:
    """Told nothing, a model foresees less than what it is asked for, and the gate would be set too low."""
    seen, x0 = np.array([[2.0], [4.0]]), np.array([[6.0], [2.0]])

    def evidence(x: np.ndarray) -> np.ndarray:
        return x[:, 0]

    assert ordinary.as_foreseen(evidence, seen, x0).tolist() == [2.0, 4.0]
    assert ordinary.halfway(evidence, seen, x0).tolist() == [4.0, 3.0]
    assert ordinary.the_higher(evidence, seen, x0).tolist() == [6.0, 4.0]


@pytest.mark.parametrize(
    ("engine", "labels", "plainer"),
    [
        ("fashion", [], ordinary.the_higher),
        ("pixels", [], ordinary.halfway),
        ("pixels", [1], ordinary.as_foreseen),
    ],
)
def test_without_ordinary_prompts_images_stand_for_what_a_prompt_would_add(engine, labels, plainer) -> None:
    """Else the gate opens on many times as many ordinary prompts as was asked for."""
    pipeline = Pipeline.load(engine)
    at, setup, latents = evidence_of(pipeline), setup_of(pipeline), pipeline.bundle.benign[:2]
    (_, found), _ = ordinary.measure_ordinary(setup, at, [], labels, latents, 1)
    _, expected = ordinary.from_latents(setup, latents, at, plainer=plainer)
    np.testing.assert_array_equal(found[:, :2], expected)


def test_labels_are_drawn_beside_the_images_and_prompts_in_their_place() -> None:
    fashion, pixels = Pipeline.load("fashion"), Pipeline.load("pixels")
    count = lambda x0: np.zeros(len(x0))  # noqa: E731
    for pipeline, prompts, labels, expected in (
        (fashion, PROMPTS, [], (3, "prompts")),
        (fashion, [], [], (2, "images")),
        (pixels, [], [1, 8], (2 + 4, "labels and images")),
    ):
        (_, found), origin = ordinary.measure_ordinary(
            setup_of(pipeline, 4), count, prompts, labels, pipeline.bundle.benign[:2], 4
        )  # fmt: skip
        assert (found.shape[1], origin) == expected


def test_subjects_that_a_model_does_not_take_are_refused() -> None:
    fashion, pixels = (Pipeline.load(name).engine for name in ("fashion", "pixels"))
    with pytest.raises(UsageError, match="no text"):
        ordinary.check_subjects(pixels, ["a bag"], [])
    with pytest.raises(UsageError, match="label is 3"):
        ordinary.check_subjects(fashion, [], [3])
    with pytest.raises(UsageError, match="label is 11"):
        ordinary.check_subjects(pixels, [], [8, 11])
