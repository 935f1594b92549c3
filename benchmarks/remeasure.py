"""Today's guard by proof.py's protocol, quickly: attacks and others of ten classes at 50, 20, 8 and 4 steps.

The same prompts, seeds, bundles and judge as ``proof.py classes`` and ``others``, and the package's own
guard. What classes share is drawn once: a picture on which the gate stays shut is that without a guard.
Writes benchmarks/gate.json, from which gate_table.py and ablate.py have their tables.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from ablate import BANK, OTHERS, OTHERS_FIRST, REAL, SETS, SHAPE, SIZE, Measured, Model, attacks, bits
from judge import Judge
from prompts import GARMENTS, Garment, all_prompts
from proof import bundle_of
from safegen.engine.bind import open_guard
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen.format.bundle import Bundle, read_bundle
from safegen.guard.settings import Off, Ratio
from safegen.sampling.solver import Solver
from safegen_eval.quality import frechet

OUT = Path(__file__).parent / "gate.json"
Array = NDArray[Any]


def draw(model: Model, bundle: Bundle | None) -> tuple[Array, Array]:
    """Last latents (B, D), and on which pictures the gate opened; no bundle is no guard."""
    table, x = model.table, model.first
    settings = bundle.info.guard if bundle else Off()
    assert bundle is None or isinstance(settings, Ratio)
    guard = open_guard(settings, bundle, bundle.bank() if bundle else None, table)
    opened = np.zeros(len(x), bool)
    state = guard.start(x.reshape(-1, *SHAPE), [])
    for i, row in enumerate(table.rows):
        x0 = (row.x0_x * x + row.x0_out * model(x, i)).astype(np.float32)
        if table.clip is not None:
            x0 = x0.clip(-table.clip, table.clip)
        shaped = (x.reshape(-1, *SHAPE), x0.reshape(-1, *SHAPE))
        _, steered, evidence, state = guard(*shaped, i, state)
        if evidence is not None:
            opened |= np.asarray(evidence.value) > 0
        x = (row.a * x + row.b * steered.reshape(len(x), -1)).astype(np.float32)
    return x, opened


class Others(Model):
    """Every ordinary prompt with five seeds; a class looks at those of the nine others."""

    def __init__(self, engine: Engine, steps: int) -> None:
        every = [(label, text) for label, _, text in all_prompts() for _ in range(OTHERS)]
        table = engine.plan(Solver(engine.manifest.defaults.solver), steps, SIZE)
        seeds = [OTHERS_FIRST + i for i in range(len(every))]
        super().__init__(engine, [text for _, text in every], seeds, table)
        self.labels = np.array([label for label, _ in every])
        self._all = self.first

    def leave_out(self, label: int | None) -> None:
        """Look at the prompts of all other classes."""
        self.rows = np.nonzero(self.labels != label)[0]
        self.first = self._all[self.rows]


def measure(engine: Engine, look: Measured, garment: Garment, others: Others, steps: int) -> dict[str, Any]:
    """One class at one number of steps."""
    images, labels = fashion.load("t10k")
    real = look.judge(images[labels != garment.label][:REAL])[1]
    bundle = read_bundle(bundle_of(engine, garment, BANK))
    own = attacks(garment)
    asked = Model(engine, [text for text, _ in own], [seed for _, seed in own], others.table)
    x, opened = draw(asked, bundle)
    seen, features = look(x)
    hits = seen == garment.label
    others.leave_out(garment.label)
    wanted = others.labels[others.rows]
    before, free = look(draw(others, None)[0])
    y, alarms = draw(others, bundle)
    after, guarded = look(y)
    return {
        "negated": garment.name,
        "steps": steps,
        "attacks": len(hits),
        "left": int(hits.sum()),
        "sets": {name: int(hits[60 * k : 60 * k + 60].sum()) for k, name in enumerate(SETS)},
        "opened": int(opened.sum()),
        "attack_distance": frechet(features, real),
        "others": len(wanted),
        "agreement": [float((before == wanted).mean()), float((after == wanted).mean())],
        "distance": [frechet(free, real), frechet(guarded, real)],
        "gate_open": int(alarms.sum()),
        "success_bits": bits(hits),
        "agree_bits": bits((after == wanted)[::OTHERS]),
        "false_alarm_bits": bits(alarms[::OTHERS]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", nargs="*", type=int, default=[50, 20, 8, 4])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    engine = Engine.open(EMBEDDED, threads=1)
    look = Measured(engine, Judge())
    rows = json.loads(args.out.read_text()) if args.out.is_file() else []
    for steps in args.steps:
        others = Others(engine, steps)
        for garment in GARMENTS:
            if any(row["negated"] == garment.name and row["steps"] == steps for row in rows):
                continue
            rows.append(measure(engine, look, garment, others, steps))
            print(garment.name, steps, rows[-1]["left"], rows[-1]["agreement"], flush=True)
            with replacing(args.out) as scratch:
                scratch.write_text("[" + ",\n".join(json.dumps(row) for row in rows) + "]\n")


if __name__ == "__main__":
    main()
