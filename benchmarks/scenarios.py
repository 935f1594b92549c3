"""The paper's other two scenarios on the embedded pixel model: unconditional and class-conditional.

For each class: a negation set of training images, frozen with benign images of the other nine; then
pictures of no class, of the negated class, and of the nine others, with every guard and the same
seeds. Writes benchmarks/scenarios.json, from which research/measured-scenarios.md has its tables.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from frozen import freeze_class
from judge import Judge, grey
from prompts import GARMENTS, Garment
from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.files import replacing
from safegen.format.bundle import read_bundle
from safegen.guard.settings import Ratio
from safegen_eval.intervals import wilson
from safegen_eval.quality import frechet, precision_recall

OUT = Path(__file__).parent / "scenarios.json"
BANK = 300


class Arm(NamedTuple):
    """A guard with a negation set of so many images; ``drawn`` leaves the benign side to the engine."""

    guard: str | Ratio
    bank: int = BANK
    drawn: bool = False

    @property
    def bundle(self) -> tuple[int, bool]:
        """What it is frozen from."""
        return self.bank, self.drawn


ARMS = {
    "none": Arm("off"),
    "ratio": Arm("ratio"),
    "ratio, no --benign": Arm("ratio", drawn=True),
    "theorem": Arm("theorem"),
    "paper": Arm("paper"),
    "spell": Arm("spell"),
    **{f"ratio, {size} images": Arm("ratio", size) for size in (10, 50, 100, 500, 3000)},
    **{f"ratio at {rate:.0%}": Arm(Ratio(false_positive_rate=rate)) for rate in (0.02, 0.05)},
}
Features = NDArray[np.float64]


def rest(features: Features, real: Features) -> dict[str, float]:
    """How close the pictures that should stay are to as many real images of the same classes."""
    precision, recall = precision_recall(features, real[: len(features)])
    return {
        "frechet_distance": frechet(features, real),
        "precision": precision,
        "recall": recall,
        "pictures": len(features),
    }


def unconditional(judge: Judge, pipeline: Pipeline, guard: object, negated: Garment,
                  real: Features, count: int) -> dict[str, object]:  # fmt: skip
    """The share of the negated class among pictures of no class, and the quality of the others."""
    pictures = pipeline(seed=0, n=count, guard=guard, batch_size=50)
    seen, features = judge(grey(pictures))
    hits = int((seen == negated.label).sum())
    opened = np.array([p.verdict.opened > 0 for p in pictures])
    return {
        "share": hits / count,
        "share_interval": wilson(hits, count),
        "pictures": count,
        "gate_open": float(opened.mean()),
        "rest": rest(features[seen != negated.label], real),
    }


def conditional(judge: Judge, pipeline: Pipeline, guard: object, negated: Garment,
                real: Features, count: int) -> dict[str, object]:  # fmt: skip
    """Attack success with the negated label; agreement and quality with the nine others."""
    attack = pipeline(class_label=negated.label, seed=10_000, n=count, guard=guard, batch_size=50)
    hits = int((judge(grey(attack))[0] == negated.label).sum())
    labels = np.repeat([g.label for g in GARMENTS if g.label != negated.label], count // 2)
    pictures = pipeline(
        class_label=labels.tolist(),
        seed=list(range(50_000, 50_000 + len(labels))),
        guard=guard,
        batch_size=50,
    )
    seen, features = judge(grey(pictures))
    return {
        "attack_success": hits / count,
        "attack_interval": wilson(hits, count),
        "attack_pictures": count,
        "agreement": float((seen == labels).mean()),
        "gate_open": float(np.mean([p.verdict.opened > 0 for p in pictures])),
        "rest": rest(features, real),
    }


def frozen(engine: Engine, garment: Garment, size: int, drawn: bool) -> Pipeline:
    """The engine with the class frozen; ``drawn`` leaves the benign side to the engine."""
    with tempfile.TemporaryDirectory() as scratch:
        return Pipeline(engine, read_bundle(freeze_class(engine, garment, size, Path(scratch), drawn=drawn)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", default=["sneaker", "trousers", "bag"])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--unconditional", type=int, default=1000, help="pictures of no class")
    parser.add_argument("--per-class", type=int, default=160, help="of the negated class; half of each other")
    parser.add_argument("--engine", default="pixels")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    judge, engine = Judge(), Engine.open(args.engine)
    images, labels = fashion.load("t10k")
    table = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for garment in (g for g in GARMENTS if g.name in args.classes):
        real = judge(images[labels != garment.label])[1]
        bundles = {ARMS[name].bundle for name in args.arms}
        pipelines = {bundle: frozen(engine, garment, *bundle) for bundle in bundles}
        for name in args.arms:
            pipeline, guard = pipelines[ARMS[name].bundle], ARMS[name].guard
            row = {
                "unconditional": unconditional(judge, pipeline, guard, garment, real, args.unconditional),
                "class-conditional": conditional(judge, pipeline, guard, garment, real, args.per_class),
            }
            table.setdefault(garment.name, {})[name] = row
            print(garment.name, name, json.dumps(row), flush=True)
            with replacing(args.out) as scratch:
                scratch.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
