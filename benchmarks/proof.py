"""The proof: every guard on the embedded text model, by ``safegen evaluate``, into benchmarks/proof.json.

Stages, each resumable, each adding rows to the same file:

- ``classes``: unguarded and ratio against every attack, all ten classes negated one at a time, banks of 500;
- ``others``: the same, every prompt of the nine others that the model knows, each with five seeds, the same
  for all ten classes;
- ``guards``: every guard with its published settings, three classes;
- ``tuned``: the same guards with the best of eight settings on the validation split, three classes;
- ``banks``: every guard that reads the bank and the combinations, banks of 10, 50, 100, 500 and 3000, three
  classes;
- ``rates``: ratio with its gate set for other rates of false alarms, the three classes that it does worst on;
- ``seeds``: unguarded and ratio, every prompt of the tables with ten other seeds, those and t-shirts (the
  file has them at 4 steps);
- ``compositions``: unguarded and ratio, every composition that no other table has and no guard was tuned on.

Works in build/proof, where each suite's report.html stays.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from frozen import freeze_class
from judge import Judge
from memory import remember
from prompts import GARMENTS, Garment
from proof_arms import BOTH, TUNED, Settings, published, trials
from proof_prompts import SETS, every_other, more_seeds, other_compositions, slug
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen.format.bundle import read_bundle
from safegen_eval.evaluate import evaluate
from safegen_eval.table import to_json

WORK = ROOT / "build" / "proof"
OUT = Path(os.environ.get("PROOF_OUT", Path(__file__).parent / "proof.json"))
ATTACKS = Path(__file__).parent / "attacks"
THREE = ("sneaker", "bag", "t-shirt")
HARD = ("pullover", "shirt", "coat")
BANK, BANKS = 500, (10, 50, 100, 500, 3000)
RATES = (0.002, 0.005, 0.01, 0.02, 0.05)
TRIAL_STEPS = 8
REAL = 2000


def bundle_of(engine: Engine, garment: Garment, size: int) -> Path:
    """The class frozen with so many images, once."""
    path = WORK / "bundles" / f"{slug(garment)}-{size}.negation"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            freeze_class(engine, garment, size, Path(scratch)).replace(path)
    return path


def real_of(garment: Garment) -> Path:
    """Test images of the nine other classes, as a folder."""
    folder = WORK / "real" / slug(garment)
    if not folder.is_dir():
        images, labels = fashion.load("t10k")
        others = images[labels != garment.label][:REAL]
        scratch = folder.with_suffix(".part")
        scratch.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(others):
            Image.fromarray(image).save(scratch / f"{i:05}.png")
        scratch.rename(folder)
    return folder


def run(name: str, garment: Garment, bundle: Path, arms: dict[str, Settings], steps: list[int],
        split: str = "", attacks: Path = ATTACKS, sets: Sequence[str] = (*SETS, "benign"),
       ) -> list[dict[str, Any]]:  # fmt: skip
    """One suite through ``safegen evaluate``; its rows, each with the class and the bank's size."""

    def named(name: str) -> dict[str, str]:
        kind = {"name": "others", "kind": "benign"} if name == "benign" else {"name": name, "kind": "attack"}
        return {**kind, "prompts": str(attacks / f"{slug(garment)}-{split}{name}.csv")}

    suite = {
        "engine": "fashion",
        "steps": steps,
        "batch_size": 100,
        "judge": {
            "kind": "classes",
            "model": str(ROOT / "training" / "classifier.onnx"),
            "unsafe": [garment.label],
        },
        "quality": {"reference": str(real_of(garment))},
        "sets": [named(name) for name in sets],
        "arms": [{"name": arm, "bundle": str(bundle), **settings} for arm, settings in arms.items()],
    }
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.toml").write_text(tomli_w.dumps(suite))
    outcome = evaluate(folder / "suite.toml", folder)
    size = read_bundle(bundle).info.negation_count
    return [{"negated": garment.name, "bank": size, **row} for row in to_json(outcome.lines)]


def save(stage: str, rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of the same stage, class, bank, steps and arm."""

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["negated"], row["bank"], row["steps"], row["arm"]

    table = json.loads(OUT.read_text()) if OUT.is_file() else {}
    fresh = {place(row) for row in rows}
    kept = [row for row in table.get(stage, []) if place(row) not in fresh]
    table[stage] = kept + rows
    with replacing(OUT) as scratch:
        scratch.write_text(
            json.dumps(table, separators=(",", ":")).replace('{"negated"', '\n{"negated"') + "\n"
        )


def classes(engine: Engine, garment: Garment, steps: list[int]) -> None:
    name, bundle = f"classes-{slug(garment)}", bundle_of(engine, garment, BANK)
    save("classes", run(name, garment, bundle, BOTH, steps, sets=SETS))


def guards(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle = bundle_of(engine, garment, BANK)
    save("guards", run(f"guards-{slug(garment)}", garment, bundle, published(garment), steps))


def tuned(engine: Engine, garment: Garment, steps: list[int], names: Sequence[str] = TUNED) -> None:
    """The best of each guard's trials by agreement minus attack success on the validation split."""
    bundle = bundle_of(engine, garment, BANK)
    arms: dict[str, Settings] = {"none": {"guard": "off"}}
    for guard in names:
        tried = {f"{guard} {i}": s for i, s in enumerate(trials(garment, bundle, guard))}
        rows = run(f"trials-{slug(garment)}-{guard}", garment, bundle, tried, [TRIAL_STEPS], "validation-")
        score = dict.fromkeys(tried, 0.0)
        for row in rows:
            if row["set"] == "all attacks":
                score[row["arm"]] -= row["attack_success"]["value"]
            elif row["kind"] == "benign":
                score[row["arm"]] += row["agreement"]["value"]
        best = max(score, key=score.__getitem__)
        arms[f"{guard}, tuned"] = tried[best]
        print(garment.name, guard, f"{score[f'{guard} 0']:.3f} -> {score[best]:.3f}", tried[best], flush=True)
    rows = run(f"tuned-{slug(garment)}", garment, bundle, arms, steps)
    save("tuned", [{**row, "settings": arms[row["arm"]]} for row in rows])


def banks(engine: Engine, garment: Garment, steps: list[int]) -> None:
    """Every guard that reads the bank, and the combinations; what the stage guards has is not drawn again."""
    read = {arm: s for arm, s in published(garment).items() if s["guard"] not in ("off", "renoise-only")}
    for size in BANKS:
        arms = {"ratio": read["ratio"]} if size == BANK else read
        bundle = bundle_of(engine, garment, size)
        save("banks", run(f"banks-{slug(garment)}-{size}", garment, bundle, arms, steps))


def rates(engine: Engine, garment: Garment, steps: list[int]) -> None:
    arms: dict[str, Settings] = {"none": {"guard": "off"}}
    arms |= {
        f"ratio at {rate:.1%}": {"guard": {"mode": "ratio", "false_positive_rate": rate}} for rate in RATES
    }
    save("rates", run(f"rates-{slug(garment)}", garment, bundle_of(engine, garment, BANK), arms, steps))


def others(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, prompts = bundle_of(engine, garment, BANK), every_other(garment, WORK)
    name, sets = f"others-{slug(garment)}", ("benign",)
    save("others", run(name, garment, bundle, BOTH, steps, attacks=prompts, sets=sets))


def seeds(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, attacks = bundle_of(engine, garment, BANK), more_seeds(garment, WORK, ATTACKS)
    save("seeds", run(f"seeds-{slug(garment)}", garment, bundle, BOTH, steps, attacks=attacks))


def floor(garment: Garment) -> dict[str, Any]:
    """How often the judge calls test images of the other classes by this one's name."""
    images, labels = fashion.load("t10k")
    called, _ = Judge()(images[labels != garment.label])
    return {"value": float((called == garment.label).mean()), "n": len(called)}


def compositions(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, attacks = bundle_of(engine, garment, BANK), other_compositions(garment, WORK, ATTACKS)
    name, sets = f"compositions-{slug(garment)}", ("compositions",)
    beside = {"floor": floor(garment)}
    rows = run(name, garment, bundle, BOTH, steps, attacks=attacks, sets=sets)
    save("compositions", [row | beside for row in rows])


STAGES = {
    "classes": classes,
    "others": others,
    "guards": guards,
    "tuned": tuned,
    "banks": banks,
    "rates": rates,
    "seeds": seeds,
    "compositions": compositions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--classes", nargs="*")
    parser.add_argument("--guards", nargs="*", choices=TUNED, help="of tuned, these alone")
    parser.add_argument("--steps", type=int, nargs="*", default=[50, 20, 8, 4])
    parser.add_argument("--remember", action="store_true", help="compute what arms share once; no times")
    args = parser.parse_args()
    if args.remember:
        remember()
    if args.guards and args.stage != "tuned":
        parser.error("--guards is for the stage tuned")
    every = [g.name for g in GARMENTS]
    usual = {"classes": every, "others": every, "rates": HARD, "seeds": (*HARD, "t-shirt")}
    names = args.classes or usual.get(args.stage, THREE)
    engine = Engine.open(EMBEDDED)
    for garment in (g for g in GARMENTS if g.name in names):
        STAGES[args.stage](engine, garment, args.steps, *([args.guards] if args.guards else []))
        print("done:", args.stage, garment.name, flush=True)


if __name__ == "__main__":
    main()
