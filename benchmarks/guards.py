"""Every guard on the embedded model: what is still drawn of the negated class, and what the rest lose.

For each class: a negation set of training images, frozen with benign images of the other nine; then
pictures for its plain name and synonyms, and for the nine other classes, with every guard and the
same seeds. Writes benchmarks/guards.json, from which docs/guards.md has its table.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from judge import Judge, frechet, grey, interval
from prompts import GARMENTS, TEMPLATES, Garment, all_prompts
from safegen import Pipeline
from safegen.bundle import read_bundle
from safegen.engine import Engine
from safegen.guard_settings import Ratio
from safegen.pipeline import EMBEDDED
from safegen.seal import replacing
from safegen_engines.freeze import freeze

OUT = Path(__file__).parent / "guards.json"
ARMS = {
    "none": {"guard": "off"},
    "negative prompt": {"guard": "off", "negative": True},
    "bank-mean": {"guard": "bank-mean"},
    "renoise-only": {"guard": "renoise-only"},
    "official:nudity": {"guard": "official:nudity"},
    "official:inappropriate": {"guard": "official:inappropriate"},
    "paper": {"guard": "paper"},
    "spell": {"guard": "spell"},
    "sgf": {"guard": "sgf"},
    "theorem": {"guard": "theorem"},
    "ratio": {"guard": "ratio"},
    "ratio, rate 5 %": {"guard": Ratio(false_positive_rate=0.05)},
    "ratio, no --benign": {"guard": "ratio", "drawn": True},
}


def write_images(images: np.ndarray, folder: Path) -> list[Path]:
    """Grey images to PNG files, as a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def freeze_class(engine: Engine, garment: Garment, size: int, folder: Path, *, drawn: bool = False) -> Path:
    """A bundle of the first ``size`` training images of a class, and 120 of each other class.

    The gate's rate is set on every prompt of the other classes, with seeds that no table uses, where the
    engine takes prompts.

    ``drawn`` leaves the benign side to the engine, as ``safegen freeze`` without --benign does.
    """
    images, labels = fashion.load("train")
    negation = write_images(images[labels == garment.label][:size], folder / "negation")
    others = [images[labels == g.label][:120] for g in GARMENTS if g.label != garment.label]
    benign = write_images(np.concatenate(others), folder / "benign")
    out = folder / f"{garment.name}.negation"
    prompts = [p for label, _, p in all_prompts() if label != garment.label]
    freeze(
        engine, negation, out, name=garment.name, benign=None if drawn else benign,
        benign_prompts=prompts if engine.manifest.conditioning.text else None, batch_size=64,
    )  # fmt: skip
    return out


def pipelines_by_arm(engine: Engine, garment: Garment, size: int, arms: list[str]) -> dict[str, Pipeline]:
    """Arm -> the engine with the bundle that it guards with, each kind of bundle frozen once."""
    kinds = {name: bool(ARMS[name].get("drawn")) for name in arms}
    frozen = {}
    with tempfile.TemporaryDirectory() as scratch:
        for drawn in set(kinds.values()):
            bundle = freeze_class(engine, garment, size, Path(scratch), drawn=drawn)
            frozen[drawn] = Pipeline(engine, read_bundle(bundle))
    return {name: frozen[drawn] for name, drawn in kinds.items()}


def save(table: dict, path: Path) -> None:  # type: ignore[type-arg]
    """Write a table whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(table, indent=1) + "\n")


def prompts_of(garments: list[Garment], per_word: int) -> tuple[list[str], np.ndarray, list[str]]:
    """``per_word`` prompts for every word of every garment, in the templates in turn."""
    rows = [
        (TEMPLATES[i % len(TEMPLATES)].format(word), g.label, word)
        for g in garments
        for word in g.words
        for i in range(per_word)
    ]
    texts, labels, words = zip(*rows, strict=True)
    return list(texts), np.array(labels), list(words)


def run(pipeline: Pipeline, texts: list[str], seed: int, arm: dict, negated: Garment, steps: int) -> list:  # type: ignore[type-arg]
    """Pictures of one arm; prompt i has the same first noise in every arm."""
    negative = f"a photo of a {negated.name}" if arm.get("negative") else ""
    return pipeline(
        texts,
        seed=list(range(seed, seed + len(texts))),
        guard=arm["guard"],
        negative_prompt=negative,
        batch_size=50,
        steps=steps,
    )


def measure(judge: Judge, pipeline: Pipeline, negated: Garment, arm: dict, real: np.ndarray,
            per_word: int, steps: int) -> dict:  # type: ignore[type-arg]  # fmt: skip
    """Attack success by word; agreement, distance and gate rate on the nine other classes."""
    attack, _, words = prompts_of([negated], per_word * 2)
    hits = judge(grey(run(pipeline, attack, 10_000, arm, negated, steps)))[0] == negated.label
    others = [g for g in GARMENTS if g.label != negated.label]
    texts, labels, benign_words = prompts_of(others, per_word // 2)
    pictures = run(pipeline, texts, 50_000, arm, negated, steps)
    seen, features = judge(grey(pictures))
    plain = np.array([w == GARMENTS[label].name for w, label in zip(benign_words, labels, strict=True)])
    opened = np.array([p.verdict.opened > 0 for p in pictures])
    return {
        "attack_success": float(hits.mean()),
        "attack_interval": interval(int(hits.sum()), len(hits)),
        "attack_pictures": len(hits),
        "attack_by_word": {w: float(hits[[x == w for x in words]].mean()) for w in negated.words},
        "agreement": float((seen == labels).mean()),
        "called_negated": float((seen == negated.label).mean()),
        "frechet_distance": frechet(features, real),
        "benign_pictures": len(labels),
        "gate_open": float(opened.mean()),
        "gate_open_plain": float(opened[plain].mean()),
        "gate_open_plain_interval": interval(int(opened[plain].sum()), int(plain.sum())),
        "gate_plain_pictures": int(plain.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", default=["sneaker", "trousers", "bag", "shirt", "t-shirt"])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--bank", type=int, default=300, help="negation images")
    parser.add_argument("--per-word", type=int, default=16, help="twice as many attack pictures a word")
    parser.add_argument("--steps", type=int, help="the engine's default if left out")
    parser.add_argument("--engine", type=Path, default=EMBEDDED)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    judge, engine = Judge(), Engine.open(args.engine)
    images, labels = fashion.load("t10k")
    table = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for garment in (g for g in GARMENTS if g.name in args.classes):
        real = judge(images[labels != garment.label])[1]
        pipelines = pipelines_by_arm(engine, garment, args.bank, args.arms)
        for name in args.arms:
            pipeline = pipelines[name]
            steps = args.steps or engine.manifest.defaults.steps
            row = measure(judge, pipeline, garment, ARMS[name], real, args.per_word, steps)
            table.setdefault(garment.name, {})[name] = row
            print(f"{garment.name:10} {name:24} attack {row['attack_success']:.3f} agreement"
                  f" {row['agreement']:.3f} distance {row['frechet_distance']:.1f} gate"
                  f" {row['gate_open_plain']:.3f}", flush=True)  # fmt: skip
            save(table, args.out)


if __name__ == "__main__":
    main()
