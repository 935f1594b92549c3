"""The shipped engine, judged. If these fail, the demo shows nonsense, or a guard that does not guard."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from judge import Judge, grey
from prompts import GARMENTS, all_prompts
from safegen import Pipeline
from safegen.engine.engine import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load()


def draw(pipeline: Pipeline, labels: list[int], count: int, guard: str) -> tuple[list, np.ndarray]:
    chosen = [p for p in all_prompts() if p[0] in labels]
    chosen = chosen[:: max(1, len(chosen) // count)][:count]
    texts = [text for _, _, text in chosen]
    pictures = pipeline(texts, seed=list(range(len(texts))), guard=guard, batch_size=40)
    return pictures, np.array([label for label, _, _ in chosen])


def test_it_draws_what_the_prompt_asks_for(judge: Judge, pipeline: Pipeline) -> None:
    pictures, labels = draw(pipeline, list(range(10)), 150, "off")
    agreement = (judge(grey(pictures))[0] == labels).mean()
    # measured 0.97 on 2,000; 150 know it to 0.014
    assert agreement > 0.92


def test_the_default_bundle_removes_what_it_negates_and_keeps_the_rest(judge, pipeline) -> None:
    negated = next(g.label for g in GARMENTS if g.name == pipeline.bundle.info.name)
    free, _ = draw(pipeline, [negated], 60, "off")
    guarded, _ = draw(pipeline, [negated], 60, "ratio")
    assert (judge(grey(free))[0] == negated).mean() > 0.95
    assert (judge(grey(guarded))[0] == negated).mean() <= 0.05  # measured: docs/measured.md; 60 pictures
    others = [g.label for g in GARMENTS if g.label != negated]
    pictures, _ = draw(pipeline, others, 90, "ratio")
    assert sum(p.verdict.opened > 0 for p in pictures) <= 1  # asked for 0.2 %; 3 sigma of 90


@pytest.fixture(scope="module")
def pixels() -> Pipeline:
    return Pipeline.load("pixels")


def test_the_pixel_model_draws_its_classes_and_without_one(judge: Judge, pixels: Pipeline) -> None:
    labels = [g.label for g in GARMENTS for _ in range(6)]
    pictures = pixels(class_label=labels, seed=list(range(60)), guard="off", batch_size=30)
    assert (judge(grey(pictures))[0] == labels).mean() > 0.85  # measured 0.98 over 540
    free = pixels(n=60, guard="off", batch_size=30)
    assert len(set(judge(grey(free))[0])) >= 7  # of ten classes; each is a tenth of the data


def test_its_default_bundle_removes_what_it_negates(judge: Judge, pixels: Pipeline) -> None:
    pictures = pixels(class_label=7, n=40, guard="ratio", batch_size=40)
    assert (judge(grey(pictures))[0] == 7).mean() <= 0.10  # over 120: research/measured-scenarios.md
    others = [g.label for g in GARMENTS if g.label != 7] * 4
    kept = pixels(class_label=others, seed=list(range(36)), guard="ratio", batch_size=36)
    assert sum(p.verdict.opened > 0 for p in kept) <= 2  # asked for 0.5 %; 3 sigma of 36


@pytest.mark.parametrize(("name", "most"), [("fashion", 25e6), ("pixels", 6e6)])
def test_what_ships_stays_small(name: str, most: float) -> None:
    assert sum(f.stat().st_size for f in (MODELS / name).iterdir()) < most
