"""Turn a trained checkpoint into the engine and the default bundle that ship in the wheel.

Needs the extras export and eval. The default bundles negate sneakers: a harmless stand-in, since a
package cannot carry the images that its users must never see drawn.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

import fashion
from prompts import GARMENTS, all_prompts
from safegen.engine.engine import Engine
from safegen.files import file_sha256
from safegen.format.manifest import File, StepGraph, read_manifest, write_manifest
from safegen.format.seal import ZEROS
from safegen_engines.build import fingerprint
from safegen_engines.graph import step_graph

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "runtime" / "safegen" / "models"
BUILDS = {
    "fashion": ["checkpoint", "--steps", 25, "--guidance-scale", 3],
    "pixels": ["pixels", "--steps", 25, "--guidance-scale", 2, "--null-class", 10, "--precision", "fp16"],
}
NEGATED = "sneaker"


def write_pngs(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05}.png")
    return folder


def safegen(*arguments: object) -> None:
    subprocess.run([Path(sys.executable).parent / "safegen", *map(str, arguments)], check=True)


def ordinary(model: str, negated: int, work: Path) -> list[object]:
    """What the gate's rate is set on: every prompt of the other classes, or their labels."""
    if model == "pixels":
        return [part for g in GARMENTS if g.label != negated for part in ("--benign-label", g.label)]
    prompts = [prompt for label, _, prompt in all_prompts() if label != negated]
    (work / "prompts.txt").write_text("\n".join(prompts))
    return ["--benign-prompts", work / "prompts.txt"]


def renew_step_graphs(engine: Path) -> None:
    """Write the step graphs again, after a guard's arithmetic changed; all else stays as it is."""
    manifest = read_manifest(engine)
    shape = Engine.open(engine).latent_shape(manifest.defaults.width, manifest.defaults.height)
    renewed = step_graph.write(engine, manifest.guards, shape)
    files = {f.name: File(file_sha256(f), f.stat().st_size) for f in renewed.values()}
    steps = {guard: StepGraph(file.name) for guard, file in renewed.items()}
    parts = manifest.parts | {"guard graph": step_graph.digest()}
    others = {name: file for name, file in manifest.files.items() if not name.startswith("step_")}
    renewed_manifest = msgspec.structs.replace(
        manifest, digest=ZEROS, steps=steps, files=others | files, parts=parts,
        fingerprint=fingerprint.fingerprint(parts),
    )  # fmt: skip
    write_manifest(engine, renewed_manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUILDS)
    parser.add_argument("--negation", type=int, default=300)
    parser.add_argument("--benign-per-class", type=int, default=120)
    parser.add_argument("--step-graphs", action="store_true", help="renew these alone")
    args = parser.parse_args()
    if args.step_graphs:
        renew_step_graphs(MODELS / args.model)
        return
    images, labels = fashion.load("train")
    label = next(g.label for g in GARMENTS if g.name == NEGATED)
    checkpoint, *options = BUILDS[args.model]
    build = [
        "build-engine",
        ROOT / "training" / checkpoint,
        "--allow-unguarded",
        "--name",
        args.model,
        *options,
    ]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        negation = write_pngs(images[labels == label][: args.negation], work / "negation")
        others = [images[labels == g.label][: args.benign_per_class] for g in GARMENTS if g.label != label]
        benign = write_pngs(np.concatenate(others), work / "benign")
        safegen(*build, "-o", work / "first")
        safegen("freeze", negation, "--benign", benign, *ordinary(args.model, label, work),
                "-e", work / "first", "--name", NEGATED, "-o", work / "default.negation",
                "--batch-size", 64)  # fmt: skip
        built, shipped = work / args.model, MODELS / args.model
        safegen(*build, "-o", built, "-b", work / "default.negation")
        shutil.rmtree(built / ".build")
        shutil.rmtree(shipped, ignore_errors=True)
        shutil.copytree(built, shipped)


if __name__ == "__main__":
    main()
