"""Turn a trained checkpoint into the engine and the default bundle that ship in the wheel.

Needs the extras export and eval. The default bundles negate sneakers: a harmless stand-in, since a
package cannot carry the images that its users must never see drawn.
"""

import argparse
import json
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
from safegen.guard.settings import SIGNABLE
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


def images_of(label: int, negation: int, benign_per_class: int, work: Path) -> tuple[Path, Path]:
    """Folders with the negation images and the benign ones."""
    images, labels = fashion.load("train")
    never = write_pngs(images[labels == label][:negation], work / "negation")
    others = [images[labels == g.label][:benign_per_class] for g in GARMENTS if g.label != label]
    return never, write_pngs(np.concatenate(others), work / "benign")


def freeze(model: str, engine: Path, folders: tuple[Path, Path], work: Path) -> Path:
    """The default bundle of an embedded model, frozen through an engine of it."""
    negation, benign = folders
    label = next(g.label for g in GARMENTS if g.name == NEGATED)
    out = work / "default.negation"
    safegen("freeze", negation, "--benign", benign, *ordinary(model, label, work), "-e", engine,
            "--name", NEGATED, "-o", out, "--batch-size", 64)  # fmt: skip
    return out


def renew_guard(engine: Path, bundle: Path) -> None:
    """Put another default bundle and the step graphs of today's guards in place; all else stays as it is."""
    manifest = read_manifest(engine)
    shape = Engine.open(engine).latent_shape(manifest.defaults.width, manifest.defaults.height)
    for old in engine.glob("step_*.onnx"):
        old.unlink()
    guards = [*SIGNABLE, "off"]
    renewed = step_graph.write(engine, guards, shape)
    shutil.copyfile(bundle, engine / manifest.bundle)
    written = [*renewed.values(), engine / manifest.bundle]
    files = {f.name: File(file_sha256(f), f.stat().st_size) for f in written}
    others = {name: file for name, file in manifest.files.items() if not name.startswith("step_")}
    parts = manifest.parts | {
        "guard graph": step_graph.digest(),
        "guards": json.dumps(list(SIGNABLE)),
        "bundle": json.dumps(file_sha256(bundle)),
    }
    renewed_manifest = msgspec.structs.replace(
        manifest, digest=ZEROS, guards=guards, files=others | files, parts=parts,
        steps={guard: StepGraph(file.name) for guard, file in renewed.items()},
        fingerprint=fingerprint.fingerprint(parts),
    )  # fmt: skip
    write_manifest(engine, renewed_manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUILDS)
    parser.add_argument("--negation", type=int, default=300)
    parser.add_argument("--benign-per-class", type=int, default=120)
    parser.add_argument("--guard", action="store_true", help="renew the bundle and the step graphs alone")
    args = parser.parse_args()
    label = next(g.label for g in GARMENTS if g.name == NEGATED)
    with tempfile.TemporaryDirectory() as scratch:
        work, shipped = Path(scratch), MODELS / args.model
        folders = images_of(label, args.negation, args.benign_per_class, work)
        if args.guard:
            renew_guard(shipped, freeze(args.model, shipped, folders, work))
            return
        checkpoint, *options = BUILDS[args.model]
        folder = ROOT / "training" / checkpoint
        build = ["build-engine", folder, "--allow-unguarded", "--name", args.model, *options]
        safegen(*build, "-o", work / "first")
        bundle = freeze(args.model, work / "first", folders, work)
        built = work / args.model
        safegen(*build, "-o", built, "-b", bundle)
        shutil.rmtree(built / ".build")
        shutil.rmtree(shipped, ignore_errors=True)
        shutil.copytree(built, shipped)


if __name__ == "__main__":
    main()
