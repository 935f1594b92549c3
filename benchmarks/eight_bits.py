"""The embedded model in 8 bits beside float32: the same prompts and seeds, by ONNX Runtime on the CPU.

Needs the extras export and quantize. Prints the table of docs/rtx.md; graphs stay in build/eight-bits.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
from judge import Judge, grey
from prompts import GARMENTS
from safegen import Picture, Pipeline
from safegen.device import CPU
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen_engines.build.onnx_folder import open_source
from safegen_engines.build.quantize import QUANTIZED, graph_of

WORK = ROOT / "build" / "eight-bits"
SEEDS = 20
PROMPTS = [f"a photo of a {garment.name}" for garment in GARMENTS for _ in range(SEEDS)]
SNEAKER = next(garment.label for garment in GARMENTS if garment.name == "sneaker")
"""What the engine's own bundle negates."""
NEGATED = np.repeat([garment.label == SNEAKER for garment in GARMENTS], SEEDS)


def quantized(engine: Engine, precision: str) -> Engine:
    """The engine with its UNet in 8 bits, as ``safegen build-engine`` quantizes it."""
    folder = WORK / precision
    if not folder.is_dir():
        WORK.mkdir(parents=True, exist_ok=True)
        program = str(Path(sys.executable).with_name("safegen"))
        asked = ["--target", "rtx", "--precision", precision, "--onnx-only", "-o", str(folder)]
        subprocess.run([program, "build-engine", str(ROOT / "training" / "checkpoint"), *asked], check=True)
    graph = graph_of(open_source(folder), precision)
    parts = dict(engine.manifest.components)
    parts["unet"] = msgspec.structs.replace(parts["unet"], file=str(graph))
    return Engine(engine.folder, msgspec.structs.replace(engine.manifest, components=parts), CPU)


def drawn(engine: Engine, guard: str) -> list[Picture]:
    return Pipeline.over(engine)(PROMPTS, seed=list(range(len(PROMPTS))), guard=guard, batch_size=50)


def main() -> None:
    engine, judge = Engine.open(EMBEDDED), Judge()
    exact = {guard: drawn(engine, guard) for guard in ("off", "ratio")}
    for precision in QUANTIZED:
        rounded = quantized(engine, precision)
        for guard, before in exact.items():
            after = drawn(rounded, guard)
            shades = np.abs(grey(after).astype(float) - grey(before)).mean()
            called, once = (judge(grey(pictures))[0] for pictures in (after, before))
            moved = [
                (a.verdict.opened > 0) != (b.verdict.opened > 0) for a, b in zip(after, before, strict=True)
            ]
            print(
                f"{precision}, {guard}: {shades:.2f} shades apart, {(called == once).mean():.1%} the same"
                f" garment, {(called[NEGATED] == SNEAKER).sum()} sneakers of {NEGATED.sum()} asked for,"
                f" gate otherwise on {np.array(moved)[~NEGATED].sum()} of {(~NEGATED).sum()} others"
            )


if __name__ == "__main__":
    main()
