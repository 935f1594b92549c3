"""``safegen inspect``: what is in an engine, a bundle or a picture, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, check_png, mib


def inspect(
    path: Annotated[Path, typer.Argument(help="An engine folder, a .negation bundle, or a PNG that safegen drew.")],
    contact_sheet: Annotated[Path | None, typer.Option(help="Draw the bundle's negation set, decoded, to this PNG.")] = None,
    engine: Annotated[Path | None, typer.Option("-e", "--engine", help="The engine whose decoder draws the contact sheet.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what of an engine's fingerprint is different here and today.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="With --explain: compare with this checkpoint, too.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Verify an engine, a bundle or a picture and say what is in it.

    Example: safegen inspect never.negation --contact-sheet never.png -e engine/
    """
    if checkpoint and not explain:
        raise UsageError("checkpoint is what --explain compares with; add --explain.")
    check_png(contact_sheet)
    if explain:
        content = _explain(path, checkpoint)
    elif path.is_dir():
        content = _engine(path)
    elif path.suffix.lower() == ".png":
        from safegen.format.image import read_metadata

        content = read_metadata(path)
    else:
        content = _bundle(path)
    if contact_sheet:
        if path.is_dir():
            from safegen.format.manifest import read_manifest

            own = read_manifest(path).bundle
            if not own:
                raise UsageError(
                    f"{path}: carries no bundle of its own; name the .negation file to be drawn."
                )
            path = path / own
        _draw_sheet(path, engine, contact_sheet)
    if as_json:
        answer(content)
    else:
        for key, value in content.items():
            _show(key, value)


def _show(key: str, value: Any, indent: str = "") -> None:
    if isinstance(value, dict) and value:
        print(f"{indent}{key}:")
        for inner, content in value.items():
            _show(inner, content, indent + "  ")
    elif isinstance(value, list):
        print(f"{indent}{key}: {', '.join(map(str, value))}")
    else:
        print(f"{indent}{key}: {value}")


def _engine(folder: Path) -> dict[str, Any]:
    import msgspec

    from safegen.engine.engine import Engine

    manifest = Engine.open(folder).manifest
    content: dict[str, Any] = {"verified": "every file matches its digest"}
    content |= msgspec.to_builtins(manifest)
    content["files"] = {n: f"{mib(f.bytes)}, sha256 {f.sha256}" for n, f in manifest.files.items()}
    content["components"] = {
        name: {
            "compiled": _compiled(part),
            "inputs": {k: f"{t.dtype} {t.shape}" for k, t in part.inputs.items()},
            "outputs": {k: f"{t.dtype} {t.shape}" for k, t in part.outputs.items()},
            "parity": f"relative {part.parity.max_rel:.1e} against {part.parity.reference}",
            "optimized_for": part.optimized_for,
        }
        for name, part in manifest.components.items()
    }
    return content


def _compiled(part: Any) -> str | None:
    """One line of what a component was compiled for."""
    if part.compiled is None:
        return None
    by = f"{part.compiled.file} by {part.compiled.backend} {part.compiled.version}"
    return f"{by} for compute capability {', '.join(part.compiled.capabilities)}"


def _explain(folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """What a rebuild here and today would have different."""
    from safegen.format.manifest import read_manifest
    from safegen_engines.build.fingerprint import explain, today

    manifest = read_manifest(folder)
    different = explain(manifest.parts, today(manifest.parts, manifest.target, checkpoint))
    return {
        "fingerprint": manifest.fingerprint,
        "source": "compared" if checkpoint else "not compared; name it with --checkpoint",
        "same": sorted(set(manifest.parts) - set(different)),
        "different": {name: f"{then} at the build, {now} here" for name, (then, now) in different.items()},
    }


def _bundle(path: Path) -> dict[str, Any]:
    import msgspec

    from safegen.format.bundle import read_bundle

    bundle = read_bundle(path)
    return {
        "verified": "the file matches its digest",
        "digest": bundle.digest,
        "bytes": path.stat().st_size,
        **msgspec.to_builtins(bundle.info),
        "ordinary_pictures": len(bundle.gate.scores),
    }


def _draw_sheet(path: Path, engine: Path | None, out: Path) -> None:
    import numpy as np
    from PIL import Image

    from safegen.engine.engine import Engine
    from safegen.engine.pipeline import EMBEDDED
    from safegen.files import replacing
    from safegen.format.bundle import read_bundle
    from safegen.format.image import contact_sheet
    from safegen.guard.regions import join

    bundle, opened = read_bundle(path), Engine.open(engine or EMBEDDED)
    if bundle.info.latent_space != opened.manifest.latent_space.id:
        raise UsageError(f"{path}: frozen through another autoencoder; name its engine with -e.")
    parts = bundle.info.regions**2
    count = min(200, -(-len(bundle.negation) // parts))
    # things that are looked for anywhere fill no picture each: several share one
    rows = bundle.negation[np.arange(count * parts) % len(bundle.negation)]
    shown = join(rows.astype(np.float32), bundle.info.regions)
    images = [
        Image.fromarray(pixels) for i in range(0, len(shown), 8) for pixels in opened.decode(shown[i : i + 8])
    ]
    with replacing(out) as scratch:
        contact_sheet(images, columns=min(20, len(images))).save(scratch, "PNG")
