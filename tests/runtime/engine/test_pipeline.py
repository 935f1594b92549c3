"""Drawing. If these fail, a seed does not name a picture, or a picture lies about how it was made."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from PIL import Image

from safegen import Pipeline, Solver
from safegen.format.bundle import read_bundle
from safegen.format.image import free_name, read_metadata
from safegen.guard.settings import MODES, Ratio


@pytest.fixture(scope="module")
def pipeline(embedded: Path) -> Pipeline:
    return Pipeline.load(embedded)


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "euler-a"])
@pytest.mark.parametrize("guard", ["ratio", "official", "off"])
def test_a_picture_of_a_batch_equals_the_same_seed_drawn_alone(pipeline, guard, solver) -> None:
    batch = pipeline("a sneaker", n=3, seed=11, steps=6, guard=guard, solver=solver)
    split = pipeline("a sneaker", n=3, seed=11, steps=6, guard=guard, solver=solver, batch_size=2)
    for i in range(3):
        alone = pipeline("a sneaker", seed=11 + i, steps=6, guard=guard, solver=solver)[0]
        # ONNX Runtime may add in another order at another batch size: one rounding step of 255
        assert np.abs(pixels(alone) - pixels(batch[i])).max() <= 1
        assert np.abs(pixels(split[i]) - pixels(batch[i])).max() <= 1


def test_prompts_of_one_call_do_not_mix(pipeline) -> None:
    both = pipeline(["a coat", "a bag"], seed=3, steps=5)
    assert [p.settings["prompt"] for p in both] == ["a coat", "a bag"]
    alone = pipeline("a bag", seed=3, steps=5)[0]
    assert np.abs(pixels(both[1]) - pixels(alone)).max() <= 1


@pytest.mark.parametrize("guard", sorted(set(MODES) - {"off"}))
def test_every_guard_draws_and_reports(pipeline, guard: str) -> None:
    picture = pipeline("a sneaker", seed=1, steps=8, guard=guard)[0]
    verdict = picture.verdict
    assert verdict.guard == guard
    assert 0 <= verdict.corrected <= verdict.opened <= verdict.steps == 8
    assert verdict.trace
    strongest = max(verdict.trace, key=lambda w: w.evidence)
    assert verdict.strongest_evidence == strongest.evidence
    assert verdict.nearest_reference == strongest.nearest < pipeline.bundle.info.negation_count


def test_the_default_guard_acts_on_the_negated_and_leaves_the_rest(pipeline) -> None:
    """The whole product in one test: a sneaker is steered away, a pair of trousers is not touched."""
    negated = pipeline("a sneaker", n=4, seed=1)
    ordinary = pipeline("trousers", n=4, seed=1)
    assert all(p.verdict.opened > 0 for p in negated)
    free = pipeline("trousers", n=4, seed=1, guard="off")
    untouched = [p for p in ordinary if p.verdict.opened == 0]
    assert len(untouched) >= 3
    for p, q in zip(ordinary, free, strict=True):
        if p.verdict.opened == 0:
            assert (pixels(p) == pixels(q)).all()


def test_a_guard_named_alone_has_the_bundles_settings(pipeline, tmp_path: Path) -> None:
    """A team signs a bundle with its settings; naming the guard it has must not undo them."""
    frozen = pipeline.bundle
    info = msgspec.structs.replace(frozen.info, guard=Ratio(repulsion=4.0))
    tiny.rewrite(tmp_path / "x.negation", msgspec.structs.replace(frozen, info=info))
    signed = Pipeline(pipeline.engine, read_bundle(tmp_path / "x.negation"))
    asked = (None, "ratio", Ratio())
    own, named, other = (pixels(signed("a sneaker", steps=3, guard=guard)[0]) for guard in asked)
    assert (named == own).all()
    assert (other != own).any()


def test_a_saved_picture_says_how_to_draw_it_again(pipeline, tmp_path: Path) -> None:
    solver = Solver("ddim", eta=0.4)
    picture = pipeline("a Mantel – “coat”", seed=2**63, steps=7, solver=solver, negative_prompt="a bag")[0]
    picture.save(tmp_path / "x.png")
    found = read_metadata(tmp_path / "x.png")
    assert found == json.loads(json.dumps(picture.metadata()))
    assert found["engine"] == pipeline.engine.manifest.digest
    assert found["bundle"] == pipeline.bundle.digest
    counts = {"opened", "corrected"}
    assert counts | {"strongest_evidence", "nearest_reference"} <= set(found["verdict"])
    again = pipeline(
        found["prompt"], seed=found["seed"], steps=found["steps"], solver=Solver(**found["solver"]),
        negative_prompt=found["negative_prompt"], guidance_scale=found["guidance_scale"],
    )[0]  # fmt: skip
    assert (pixels(again) == np.asarray(Image.open(tmp_path / "x.png"))).all()


def test_an_unguarded_picture_says_so(pipeline) -> None:
    record = pipeline("a coat", steps=2, guard="off")[0].metadata()
    assert record["guarded"] is False
    assert record["bundle"] is None
    assert record["verdict"]["guard"] == "off"


def test_names_never_hit_an_existing_file(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path, "../A coat / of “Ärmel”!", 7))
        names[-1].touch()
    assert [n.name for n in names] == ["a-coat-of-ärmel-7.png", "a-coat-of-ärmel-7-2.png",
                                       "a-coat-of-ärmel-7-3.png"]  # fmt: skip
    assert all(n.parent == tmp_path for n in names)
    assert free_name(tmp_path, "???", 1).name == "picture-1.png"


def test_guidance_and_negative_prompts_matter(pipeline) -> None:
    plain = pipeline("a coat", seed=5, steps=6, guard="off", guidance_scale=1.0)[0]
    guided = pipeline("a coat", seed=5, steps=6, guard="off", guidance_scale=6.0)[0]
    negative = pipeline("a coat", seed=5, steps=6, guard="off", guidance_scale=6.0, negative_prompt="a coat")[
        0
    ]
    assert np.abs(pixels(plain) - pixels(guided)).max() > 10
    assert np.abs(pixels(negative) - pixels(guided)).max() > 10


def test_steps_are_handed_out_as_they_happen(pipeline) -> None:
    seen = []
    pipeline("a coat", n=3, steps=4, batch_size=2, on_step=lambda s: seen.append((s.index, len(s.x))))
    assert seen == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 1), (1, 1), (2, 1), (3, 1)]


def test_numpy_s_integers_name_pictures_too(pipeline, tmp_path: Path) -> None:
    """A list of seeds is often an array, and the metadata is JSON."""
    plain = pipeline("a coat", seed=[3, 4], steps=2, n=2, size=(32, 32))
    size = np.array([32, 32])
    ours = pipeline("a coat", seed=np.array([3, 4]), steps=np.int64(2), n=np.int32(2), size=size)
    assert [p.metadata() for p in ours] == [p.metadata() for p in plain]
    ours[0].save(tmp_path / "x.png")
    [labelled] = Pipeline.load("pixels")(class_label=np.int64(3), steps=1)
    assert json.loads(json.dumps(labelled.settings))["class_label"] == 3
