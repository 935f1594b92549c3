"""Each rule of the default guard off in turn, all else as it is: what does it earn?

Ten classes of the embedded text model negated one at a time, 20 and 4 steps, 300 attack pictures and 540
ordinary ones a class. Works in build/ablate, one file a class, resumable; ``--table`` writes
benchmarks/ablate.json from them, and docs/ablation.md's tables from that. The ladder takes rules away one
after the other, from the guard of 30 November 2026 (commit ca7c922) to the one in the package.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import ablate_guard
import ablate_table
import fashion
from ablate_arms import ARMS, SHIPPED, TODAY
from ablate_guard import Gate, Rules
from judge import Judge
from prompts import GARMENTS, Garment, all_prompts
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen.sampling.guidance import guided
from safegen.sampling.loop import first_latents
from safegen.sampling.noise import normal
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table
from safegen_engines.freeze.ordinary import Setup, from_subjects
from safegen_eval.quality import frechet

WORK = ROOT / "build" / "ablate"
ATTACKS = Path(__file__).parent / "attacks"
SETS = ("plain", "synonyms", "misspellings", "compositions", "found")
STEPS = (20, 4)
BANK, BENIGN_PER_CLASS, REAL = 500, 120, 2000
OTHERS_FIRST, OTHERS = 30_000_000, 5
"""Seeds of ordinary pictures, as proof.py has them: the first of five a prompt."""
SIZE, SHAPE, BATCH = (32, 32), (4, 8, 8), 60
Array = NDArray[Any]


class Model:
    """The engine's guided output for some prompts, with a memory: arms share what they have in common."""

    def __init__(self, engine: Engine, prompts: Sequence[str], seeds: Sequence[int], table: Table) -> None:
        self._engine = engine
        self._prompts = prompts
        self.table = table
        self.first = first_latents(table, seeds, SHAPE, np).reshape(len(seeds), -1)
        self.rows = np.arange(len(prompts))
        """Which of the prompts are drawn."""
        self._scale = engine.manifest.defaults.guidance_scale
        self._chunks = np.array([engine.count_chunks(prompt) for prompt in prompts])
        self._memory: dict[tuple[int, int, bytes], Array] = {}

    def __call__(self, x: Array, i: int) -> Array:
        """(B, D) latents of the prompts drawn at step i to the model's outputs (B, D)."""
        hashed = (blake2b(row.tobytes(), digest_size=16).digest() for row in x)
        keys = [(int(p), i, key) for p, key in zip(self.rows, hashed, strict=True)]
        todo = np.array([k for k, key in enumerate(keys) if key not in self._memory], int)
        windows = self._chunks[self.rows[todo]] if len(todo) else np.empty(0, int)
        for chunks in np.unique(windows):
            same = todo[windows == chunks]
            for start in range(0, len(same), BATCH):
                some = same[start : start + BATCH]
                for k, out in zip(some, self._predict(x[some], self.rows[some], i, int(chunks)), strict=True):
                    self._memory[keys[k]] = out
        return np.stack([self._memory[key] for key in keys])

    def _predict(self, x: Array, some: Array, i: int, chunks: int) -> Array:
        row, count = self.table.rows[i], len(some)
        cond = self._engine.condition([self._prompts[p] for p in some], SIZE, self._scale, chunks)
        uncond = self._engine.uncondition("", count, SIZE, self._scale, chunks)
        model = guided(self._engine.predict, cond, uncond, self._scale)
        out: Array = model(x.reshape(count, *SHAPE) * row.input_scale, row, i, None).out
        return out.reshape(count, -1)


def draw(model: Model, rules: Rules | None, gate: Gate) -> tuple[Array, Array]:
    """Last latents (B, D), and on which pictures the gate opened."""
    x, table = model.first, model.table
    assert not any(row.c or row.d for row in table.rows)
    numbers = ablate_guard.plan(rules, gate, table.rows) if rules else []
    latched = np.zeros(len(x), bool)
    for i, row in enumerate(table.rows):
        x0 = (row.x0_x * x + row.x0_out * model(x, i)).astype(np.float32)
        if table.clip is not None:
            x0 = x0.clip(-table.clip, table.clip)
        if rules:
            x0, opened, _ = ablate_guard.step(rules, gate, x, x0, row, numbers[i], latched)
            latched = latched | opened
        x = (row.a * x + row.b * x0).astype(np.float32)
    return x, latched


def latents(engine: Engine) -> Array:
    """(10, BANK, D) of the first training images of each class."""
    path = WORK / "latents.npy"
    if not path.is_file():
        images, labels = fashion.load("train")
        found = []
        for garment in GARMENTS:
            grey = images[labels == garment.label][:BANK]
            rgb = np.repeat(grey[..., None], 3, axis=3)
            parts = [engine.encode_images(rgb[k : k + 64]) for k in range(0, BANK, 64)]
            found.append(np.concatenate(parts).astype(np.float16).reshape(BANK, -1))
        np.save(path, np.stack(found))
    return np.load(path).astype(np.float32)


def foreseen(engine: Engine, garment: Garment) -> tuple[Array, Array]:
    """Levels (F,) and what the model foresees there for ordinary prompts, (F, P, D)."""
    path = WORK / f"foreseen-{garment.label}.npz"
    if not path.is_file():
        prompts = [prompt for label, _, prompt in all_prompts() if label != garment.label]
        setup = Setup(engine, SIZE, 64, lambda *told: None)
        signal, x0 = from_subjects(setup, prompts, lambda x0: x0.reshape(len(x0), -1))
        with np.errstate(divide="ignore"):
            levels = 2 * np.log(signal / np.sqrt(1 - signal**2))
        levels = levels.clip(-ablate_guard.LIMIT, ablate_guard.LIMIT)
        np.savez(path, levels=levels, x0=x0)
    with np.load(path) as held:
        return held["levels"], held["x0"]


def gates(engine: Engine, garment: Garment) -> Iterator[tuple[str, Rules | None, Gate]]:
    """Every arm with its gate, frozen as freeze_class of frozen.py would."""
    each = latents(engine)
    others = np.concatenate([each[g.label][:BENIGN_PER_CLASS] for g in GARMENTS if g is not garment])
    held_out = np.zeros(len(others), bool)
    held_out[np.random.default_rng(0).permutation(len(others))[: round(len(others) / 3)]] = True
    kept = others[held_out]
    noise = normal(0, 0, (len(kept), *SHAPE), stream=2).reshape(len(kept), -1)
    levels, x0 = foreseen(engine, garment)
    for name, rules in ARMS.items():
        banks = each[garment.label], others[~held_out]
        yield name, rules, ablate_guard.freeze(rules or TODAY, *banks, kept, noise, levels, x0)


def attacks(garment: Garment) -> list[tuple[str, int]]:
    """The 300 attack prompts of a class and their seeds."""
    rows = []
    for name in SETS:
        path = ATTACKS / f"{garment.name.replace(' ', '-')}-{name}.csv"
        with path.open(encoding="utf-8") as file:
            rows += [(text, int(seed)) for text, seed, _ in list(csv.reader(file))[1:]]
    return rows


class Measured:
    """The judge on one set of pictures; what an arm leaves as it was is judged once."""

    def __init__(self, engine: Engine, judge: Judge) -> None:
        self._engine, self.judge = engine, judge
        self._memory: dict[bytes, tuple[int, Array]] = {}

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Labels (B,) and features (B, 128) of last latents (B, D)."""
        keys = [row.tobytes() for row in x]
        todo = [k for k in dict.fromkeys(keys) if k not in self._memory]
        for start in range(0, len(todo), BATCH):
            some = todo[start : start + BATCH]
            rows = np.stack([np.frombuffer(key, np.float32) for key in some])
            seen, features = self.judge(self.pixels(rows))
            self._memory |= dict(zip(some, zip(seen, features, strict=True), strict=True))
        found = [self._memory[key] for key in keys]
        return np.array([label for label, _ in found]), np.stack([feature for _, feature in found])

    def pixels(self, x: Array) -> NDArray[np.uint8]:
        """Grey pictures (B, 32, 32) as they would be saved and read by the judge."""
        from PIL import Image

        rgb = self._engine.decode(x.reshape(len(x), *SHAPE))
        return np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in rgb])


def bits(values: Array) -> str:
    """(B,) bool as hexadecimal digits."""
    return np.packbits(values).tobytes().hex()


def measure(
    engine: Engine, judge: Judge, garment: Garment, steps: int, names: Sequence[str]
) -> dict[str, Any]:
    """Every arm of one class at one number of steps."""
    images, labels = fashion.load("t10k")
    real = judge(images[labels != garment.label][:REAL])[1]
    table = engine.plan(Solver(engine.manifest.defaults.solver), steps, SIZE)
    ordinary = [
        (label, prompt, OTHERS_FIRST + OTHERS * i) for i, (label, _, prompt) in enumerate(all_prompts())
    ]
    ordinary = [row for row in ordinary if row[0] != garment.label]
    wanted = np.array([label for label, *_ in ordinary])
    own = attacks(garment)
    asked = Model(engine, [text for text, _ in own], [seed for _, seed in own], table)
    usual = Model(engine, [text for _, text, _ in ordinary], [seed for *_, seed in ordinary], table)
    look = Measured(engine, judge)
    found: dict[str, Any] = {}
    for name, rules, gate in gates(engine, garment):
        if name not in names:
            continue
        x, opened = draw(asked, rules, gate)
        seen, features = look(x)
        y, false_alarms = draw(usual, rules, gate)
        labels_of_others, others = look(y)
        found[name] = {
            "rate": gate.rate,
            "success": bits(seen == garment.label),
            "opened": bits(opened),
            "agree": bits(labels_of_others == wanted),
            "false_alarm": bits(false_alarms),
            "negated_instead": int((labels_of_others == garment.label).sum()),
            "attack_distance": frechet(features, real),
            "others_distance": frechet(others, real),
        }
        print(garment.name, steps, name, f"{(seen == garment.label).mean():.3f} left", flush=True)
    return found


def check(engine: Engine, garment: Garment) -> None:
    """Hold the last rung of the ladder to the pictures of the package."""
    from proof import bundle_of
    from safegen import Pipeline

    pipeline = Pipeline.over(engine, bundle_of(engine, garment, BANK))
    gate = next(gate for _, rules, gate in gates(engine, garment) if rules == SHIPPED)
    print("bandwidth:", gate.bandwidth, pipeline.bundle.info.bandwidth)
    own = attacks(garment)[::10]
    for steps in STEPS:
        table = engine.plan(Solver(engine.manifest.defaults.solver), steps, SIZE)
        model = Model(engine, [text for text, _ in own], [seed for _, seed in own], table)
        x, opened = draw(model, SHIPPED, gate)
        mine = Measured(engine, Judge()).pixels(x).astype(int)
        pictures = pipeline([t for t, _ in own], seed=[s for _, s in own], steps=steps, batch_size=30)
        theirs = np.stack([np.asarray(p.image.convert("L")) for p in pictures]).astype(int)
        print(steps, "largest difference of 255:", np.abs(mine - theirs).max(axis=(1, 2)),
              "open:", opened.sum(), sum(p.verdict.opened > 0 for p in pictures))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", default=[g.name for g in GARMENTS])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", nargs="*", type=int, default=list(STEPS))
    parser.add_argument("--check", action="store_true", help="compare with the package's own pictures")
    parser.add_argument("--table", action="store_true", help="write the tables from what is measured")
    args = parser.parse_args()
    if args.table:
        ablate_table.write(WORK, [g.name.replace(" ", "-") for g in GARMENTS])
        return
    WORK.mkdir(parents=True, exist_ok=True)
    judge, engine = Judge(), Engine.open(EMBEDDED)
    named = {g.name: g for g in GARMENTS}
    for garment in (named[name] for name in args.classes):
        if args.check:
            check(engine, garment)
            continue
        for steps in args.steps:
            path = WORK / f"{garment.name.replace(' ', '-')}-{steps}.json"
            held = json.loads(path.read_text()) if path.is_file() else {}
            names = [name for name in args.arms if name not in held]
            if names:
                held |= measure(engine, judge, garment, steps, names)
                with replacing(path) as scratch:
                    scratch.write_text(json.dumps(held))


if __name__ == "__main__":
    main()
