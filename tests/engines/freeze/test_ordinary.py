"""What sets the gate's rate. If these fail, ordinary pictures open the gate more often than was promised."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from safegen import Pipeline
from safegen.errors import UsageError
from safegen.guard.bank import evidence_at
from safegen.sampling import noise
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table, noised
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
    with pytest.raises(UsageError, match="label is -1"):
        ordinary.check_subjects(pixels, [], [0, -1])
    ordinary.check_subjects(fashion, ["a bag"], [])
    ordinary.check_subjects(pixels, [], [0, 10])


class Model:
    """Stands for an engine of 1x2x2 pixels that says what it is asked."""

    def __init__(self, **conditioning) -> None:
        spec = {"classes": 0, "null_class": None, "guidance": "classifier-free"} | conditioning
        spec["text"] = spec.get("text", {})
        self.manifest = SimpleNamespace(
            conditioning=SimpleNamespace(**spec),
            name="x",
            defaults=SimpleNamespace(guidance_scale=3.0, solver="ddim"),
        )
        self.device = SimpleNamespace(xp=np, active=nullcontext)
        self.asked, self.seen = [], []

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 1, height, width

    def plan(self, solver: Solver, steps: int, size: tuple[int, int]) -> Table:
        rows = (noised(level)._replace(timestep=90.0 - level) for level in np.linspace(-5, 5, steps))
        return Table(tuple(rows), 1.0, clip=2.0)

    def count_chunks(self, *texts: str) -> int:
        return 1

    def condition(self, subjects, size, scale, chunks):
        self.asked.append(("condition", list(subjects), scale))
        return {"told": np.arange(len(subjects))}

    def uncondition(self, negative, count, size, scale, chunks=1):
        self.asked.append(("uncondition", negative, count, scale))
        return {"told": np.full(count, -1)}

    def predict(self, x, timestep, told):
        self.seen.append((len(x), timestep))
        return 3.0 * np.ones_like(x)


def value(x0: np.ndarray) -> np.ndarray:
    return x0.reshape(len(x0), -1).sum(axis=1)


def reported(model: Model) -> tuple[ordinary.Setup, list]:
    said: list = []
    return ordinary.Setup(model, (2, 2), 2, lambda *line: said.append(line)), said


LATENTS = np.arange(12, dtype=np.float16).reshape(3, 1, 2, 2)
FORESEEN = "foreseeing ordinary pictures"


def test_the_model_is_told_nothing_in_particular_and_without_guidance() -> None:
    """x0 is clipped as in drawing: 3 is foreseen everywhere, and 2 is the most there is."""
    model = Model()
    setup, said = reported(model)
    levels, found = ordinary.from_latents(setup, LATENTS, value, plainer=ordinary.as_foreseen)
    assert model.asked == [("uncondition", "", 2, 1.0), ("uncondition", "", 1, 1.0)]
    assert found.shape == (12, 3) and (found == 8.0).all()
    assert model.seen[:12] == [(2, 90.0 - level) for level in np.linspace(-5, 5, 12)]
    assert said == [(FORESEEN, 2, 3), (FORESEEN, 3, 3)]
    np.testing.assert_allclose(levels, [noised(level).signal for level in np.linspace(-5, 5, 12)])


def test_a_model_without_a_null_class_is_not_asked() -> None:
    """It can be told nothing in particular: the images stand for all of it, at every level."""
    model = Model(classes=3)
    setup, said = reported(model)
    (_, found), origin = ordinary.measure_ordinary(setup, value, [], [], LATENTS, 5)
    assert origin == "images, unseen by the model"
    assert (model.asked, model.seen) == ([], [])
    assert found.tolist() == [[6.0, 22.0, 38.0]] * 12
    assert said == [(FORESEEN, 2, 3), (FORESEEN, 3, 3)]


@pytest.mark.parametrize(
    ("model", "scale", "asked"),
    [
        (Model(text={"in": []}), 3.0, ["condition", "uncondition"]),
        (Model(text={"in": []}), 1.01, ["condition", "uncondition"]),
        (Model(text={"in": []}), 1.0, ["condition"]),
        (Model(text={"in": []}, guidance="embedded"), 3.0, ["condition"]),
    ],
)
def test_prompts_are_guided_as_generate_guides_them(model: Model, scale: float, asked: list[str]) -> None:
    model.manifest.defaults.guidance_scale = scale
    setup, said = reported(model)
    _, found = ordinary.from_subjects(setup, ["a", "b", "c"], value)
    assert [name for name, *_ in model.asked] == asked * 2
    assert model.asked[0] == ("condition", ["a", "b"], scale)
    assert found.shape == (12, 3)
    assert said == [(FORESEEN, 2, 3), (FORESEEN, 3, 3)]


def test_labels_come_in_turn_beside_the_images() -> None:
    model = Model(classes=3, null_class=2)
    setup, _ = reported(model)
    (_, found), origin = ordinary.measure_ordinary(setup, value, [], [1, 0], LATENTS, 3)
    assert (found.shape, origin) == ((12, 6), "labels and images")
    assert [subjects for name, subjects, *_ in model.asked if name == "condition"] == [[1, 0], [1]]


def test_a_model_that_is_told_nothing_at_all_foresees_what_it_draws() -> None:
    assert ordinary.plainer(Model(), []) is ordinary.as_foreseen
