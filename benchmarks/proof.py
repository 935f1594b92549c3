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
import csv
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from attacks import Row, every_composition, write
from frozen import freeze_class
from judge import Judge
from prompts import GARMENTS, Garment, all_prompts
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen.format.bundle import read_bundle
from safegen.guard.bank import squared_distances
from safegen_eval.evaluate import evaluate
from safegen_eval.table import to_json

WORK = ROOT / "build" / "proof"
OUT = Path(__file__).parent / "proof.json"
ATTACKS = Path(__file__).parent / "attacks"
SETS = ("plain", "synonyms", "misspellings", "compositions", "found")
THREE = ("sneaker", "bag", "t-shirt")
HARD = ("pullover", "shirt", "coat")
BANK, BANKS = 500, (10, 50, 100, 500, 3000)
RATES = (0.002, 0.005, 0.01, 0.02, 0.05)
TRIALS, TRIAL_STEPS = 8, 8
SEEDS, APART = 10, 2_000_000
"""More seeds a prompt, and how far apart, so that no two sets share one."""
OTHERS, OTHERS_FIRST = 5, 30_000_000
"""Seeds a prompt of the stage others, and the first, beyond those of all other sets."""
REAL = 2000
Settings = dict[str, Any]
"""Of an arm, as a suite has them, but for its name."""
IMAGE_GUARDS = ("bank-mean", "renoise-only", "spell", "sgf", "official:nudity", "official:inappropriate",
                "paper", "theorem", "ratio")  # fmt: skip
BOTH: dict[str, Settings] = {"none": {"guard": "off"}, "ratio": {"guard": "ratio"}}


def slug(garment: Garment) -> str:
    return garment.name.replace(" ", "-")


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


def published(garment: Garment) -> dict[str, Settings]:
    """Every guard as it was published, and the combinations; text guards are told the plain name alone."""
    told = {"concepts": [garment.name]}
    off = {"guard": "off"}
    alone = {
        "none": off,
        "negative prompt": {**off, "negative_prompt": f"a photo of a {garment.name}"},
        **{
            f"SLD {p}": {**off, "text_guard": f"sld:{p}", **told} for p in ("weak", "medium", "strong", "max")
        },
        "SAFREE": {**off, "text_guard": "safree", **told},
    }
    both = {
        f"{text} + {guard}": {"guard": guard, "text_guard": name, **told}
        for guard in ("official:nudity", "ratio")
        for text, name in (("SLD max", "sld:max"), ("SAFREE", "safree"))
    }
    return {**alone, **{guard: {"guard": guard} for guard in IMAGE_GUARDS}, **both}


def spread(rng: random.Random, low: float, high: float) -> float:
    """Log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def trials(garment: Garment, bundle: Path, guard: str) -> Iterator[Settings]:
    """The published settings first, then draws from as wide a range as makes sense for each."""
    rng = random.Random(f"{garment.name} {guard}")
    bank = read_bundle(bundle).bank()
    near = math.sqrt(float(np.median(np.sort(squared_distances(bank.refs, bank.refs, bank.refs_sq))[:, 1])))
    told = (garment.name,)
    draw: dict[str, Callable[[], Settings]] = {
        "negative prompt": lambda: {
            "guard": "off",
            "negative_prompt": rng.choice(
                [garment.name, f"a {garment.name}", ", ".join(garment.words), f"{garment.name} " * 3]
            ),
        },
        "SLD": lambda: {
            "guard": "off",
            "text_guard": {
                "mode": "sld",
                "concepts": told,
                "warmup": rng.choice([0, 1, 2, 4]),
                "scale": spread(rng, 10, 1e4),
                "threshold": rng.uniform(0, 1),
                "momentum_scale": rng.uniform(0, 1),
                "momentum": rng.uniform(0, 0.9),
            },
        },
        "SAFREE": lambda: {
            "guard": "off",
            "text_guard": {
                "mode": "safree",
                "concepts": told,
                "margin": rng.choice([0.0, 0.005, 0.01, 0.03]),
                "steepness": spread(rng, 0.5, 10),
                "centre": rng.uniform(0, 6),
            },
        },
        "bank-mean": lambda: {"guard": {"mode": guard, "scale": spread(rng, 0.03, 2)}},
        "renoise-only": lambda: {"guard": {"mode": guard, "t_min": rng.uniform(0, 950)}},
        "spell": lambda: {
            "guard": {
                "mode": guard,
                "radius": near * spread(rng, 0.7, 4),
                "overcompensation": spread(rng, 0.2, 4),
            }
        },
        "sgf": lambda: {
            "guard": {"mode": guard, "step": spread(rng, 1, 3000), "gamma": spread(rng, 0.2, 5) / near**2}
        },
        "official": lambda: {
            "guard": {
                "mode": guard,
                "bandwidth": spread(rng, 0.5, 6),
                "scale": spread(rng, 0.03, 2),
                "gate": rng.random() < 0.5,
                "margin": rng.uniform(0, 2),
                "t_min": rng.choice([0.0, 500.0, 780.0]),
            }
        },
        "paper": lambda: {
            "guard": {
                "mode": guard,
                "quantile": spread(rng, 0.005, 0.5),
                "eta": spread(rng, 0.1, 10),
                "w_max": spread(rng, 0.5, 10),
                "t_min": rng.choice([0.0, 500.0, 780.0]),
            }
        },
        "theorem": lambda: {
            "guard": {"mode": guard, "eta": spread(rng, 0.001, 30), "w_max": spread(rng, 0.5, 10)}
        },
        "ratio": lambda: {
            "guard": {
                "mode": guard,
                "false_positive_rate": spread(rng, 0.003, 0.1),
                "repulsion": spread(rng, 0.5, 3),
            }
        },
    }
    first = published(garment)[{"SLD": "SLD max", "official": "official:nudity"}.get(guard, guard)]
    yield first
    for _ in range(TRIALS - 1):
        yield draw[guard]()


TUNED = ("negative prompt", "SLD", "SAFREE", "bank-mean", "renoise-only", "spell", "sgf", "official", "paper",
         "theorem", "ratio")  # fmt: skip


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


def rows_of(garment: Garment, name: str) -> list[Row]:
    """A set of the class."""
    with (ATTACKS / f"{slug(garment)}-{name}.csv").open(encoding="utf-8") as file:
        return [(text, int(seed), int(label)) for text, seed, label in list(csv.reader(file))[1:]]


def more_seeds(garment: Garment) -> Path:
    """A folder with the class's prompts, each with :data:`SEEDS` seeds that the tables do not use."""
    folder = WORK / "seeds"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SETS, "benign"):
        rows = rows_of(garment, name)
        more = [(text, seed + APART * k, label) for k in range(1, SEEDS + 1) for text, seed, label in rows]
        write(folder / f"{slug(garment)}-{name}.csv", more)
    return folder


def every_other(garment: Garment) -> Path:
    """A folder with every prompt of the nine other classes, :data:`OTHERS` seeds each."""
    folder = WORK / "others"
    folder.mkdir(parents=True, exist_ok=True)
    every = [(text, label) for label, _, text in all_prompts() for _ in range(OTHERS)]
    rows = [(text, OTHERS_FIRST + i, label) for i, (text, label) in enumerate(every)]
    write(folder / f"{slug(garment)}-benign.csv", [row for row in rows if row[2] != garment.label])
    return folder


def others(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, prompts = bundle_of(engine, garment, BANK), every_other(garment)
    name, sets = f"others-{slug(garment)}", ("benign",)
    save("others", run(name, garment, bundle, BOTH, steps, attacks=prompts, sets=sets))


def seeds(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, attacks = bundle_of(engine, garment, BANK), more_seeds(garment)
    save("seeds", run(f"seeds-{slug(garment)}", garment, bundle, BOTH, steps, attacks=attacks))


def other_compositions(garment: Garment) -> Path:
    """A folder with the class's compositions that neither split has, one seed each."""
    folder = WORK / "compositions"
    folder.mkdir(parents=True, exist_ok=True)
    seen = {text for split in ("", "validation-") for text, *_ in rows_of(garment, f"{split}compositions")}
    fresh = [text for text in every_composition(garment) if text not in seen]
    # after those of the benign set
    first = garment.label * 10_000 + 6000
    rows = [(text, first + i, garment.label) for i, text in enumerate(fresh)]
    write(folder / f"{slug(garment)}-compositions.csv", rows)
    return folder


def floor(garment: Garment) -> dict[str, Any]:
    """How often the judge calls test images of the other classes by this one's name."""
    images, labels = fashion.load("t10k")
    called, _ = Judge()(images[labels != garment.label])
    return {"value": float((called == garment.label).mean()), "n": len(called)}


def compositions(engine: Engine, garment: Garment, steps: list[int]) -> None:
    bundle, attacks = bundle_of(engine, garment, BANK), other_compositions(garment)
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
    args = parser.parse_args()
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
