"""``safegen build-engine``: a checkpoint to a sealed engine folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar, mib, say

if TYPE_CHECKING:
    from safegen.format.manifest import Manifest
    from safegen_engines.build.components import Built
    from safegen_engines.build.options import Options


def build_engine(
    checkpoint: Annotated[Path, typer.Argument(help="A diffusers folder, or an ONNX folder as optimum writes it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The engine folder to write.")],
    target: Annotated[str, typer.Option(help="What it runs on: cpu, cuda, rtx, tensorrt, orin-jp62, orin-jp72 or thor-jp72.")] = "cpu",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16, int8 or fp8; left out: fp32 on a CPU, fp16 on a GPU.")] = None,
    onnx_only: Annotated[bool, typer.Option("--onnx-only", help="Stop after the export: a folder to carry to the device and build there.")] = False,
    clip_skip: Annotated[int, typer.Option(min=0, help="Layers of the text encoder to leave out at its end.")] = 0,
    null_class: Annotated[int | None, typer.Option(min=0, help="The label of no class, where a class-conditional UNet has one.")] = None,
    without_t5: Annotated[bool, typer.Option("--without-t5", help="Leave out the largest text encoder of Stable Diffusion 3.")] = False,
    lora: Annotated[list[str] | None, typer.Option(help="A LoRA file to fuse, FILE or FILE:SCALE (repeatable).")] = None,
    portable: Annotated[bool, typer.Option("--portable", help="TensorRT: engines that later versions and other GPUs (Ampere and newer; not on Jetsons) run, more slowly.")] = False,
    strip_weights: Annotated[bool, typer.Option("--strip-weights", help="Compile engines without weights, which they take from a graph beside them; needs the GPU here.")] = False,
    bundle: Annotated[Path | None, typer.Option("-b", "--bundle", help="A default negation bundle to put into the engine.")] = None,
    guards: Annotated[str | None, typer.Option(help="Guards the engine allows, with commas; all if left out.")] = None,
    allow_unguarded: Annotated[bool, typer.Option("--allow-unguarded", help="Let the engine draw without a guard, for measuring.")] = False,
    name: Annotated[str | None, typer.Option(help="The engine's name; the checkpoint's if left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Default steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0.0, help="Default guidance scale.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Build a sealed engine from a checkpoint.

    Example: safegen build-engine stable-diffusion-v1-5/ --target rtx -o engine/
    """
    from safegen_engines.build.build import build
    from safegen_engines.build.options import Options
    from safegen_engines.build.source import write_onnx

    options = Options(
        target=target,
        precision=precision or "",
        clip_skip=clip_skip,
        null_class=null_class,
        without_t5=without_t5,
        loras=tuple(parse_lora(text) for text in lora or ()),
        portable=portable,
        strip_weights=strip_weights,
        allow_unguarded=allow_unguarded,
        guards=_guards(guards),
        name=name,
        steps=steps,
        guidance_scale=guidance_scale,
        bundle=str(bundle) if bundle else None,
    )
    built: list[Built] = []
    with bar("components") as progress:
        task = progress.add_task("building", total=None, note="", visible=False)

        def report(part: Built) -> None:
            progress.update(task, visible=True, advance=1, total=part.count, note=part.name)
            built.append(part)
            _say_part(part)

        def within(what: str, share: float) -> None:
            progress.update(task, visible=True, note=f"{what} {share:4.0%}")

        exporter = _exporter(progress)
        if onnx_only:
            write_onnx(checkpoint, out, options, export=exporter, progress=within)
        else:
            manifest = build(checkpoint, out, options, export=exporter, report=report, progress=within)
    if onnx_only:
        _show_folder(out, options, as_json)
    else:
        _show_engine(out, manifest, built, as_json)


def _say_part(part: Built) -> None:
    """One line of a finished component."""
    check, compiled = part.component.parity, part.component.compiled
    how = "optimized offline" if part.component.optimized_for else "plain graph"
    how = f"compiled by {compiled.backend} {compiled.version}" if compiled else how
    say(
        f"  built {part.name:13} {part.component.precision} {part.seconds:7.1f} s {mib(part.bytes):>11}  max abs error"
        f" {check.max_abs:.1e}, relative {check.max_rel:.1e} against {check.reference}"
        f" (at most {check.tolerance:.0e}), {how}"
    )


def _figures(part: Built) -> dict[str, Any]:
    """A component's, for ``--json``."""
    return {
        "component": part.name,
        "seconds": part.seconds,
        "bytes": part.bytes,
        "max_abs": part.component.parity.max_abs,
        "max_rel": part.component.parity.max_rel,
    }


def _guards(text: str | None) -> tuple[str, ...]:
    from safegen.guard.settings import SIGNABLE

    names = tuple(n.strip() for n in text.split(",")) if text is not None else SIGNABLE
    for wrong in (n for n in names if n not in SIGNABLE):
        raise UsageError(f"guard is {wrong!r}; an engine carries {', '.join(SIGNABLE)}.")
    return names


def _precision(options: Options) -> str:
    """The option to repeat on the device, where the graphs were made for it."""
    return f" --precision {options.precision}" if options.precision in ("int8", "fp8") else ""


def parse_lora(text: str) -> tuple[Path, float]:
    """``style.safetensors`` or ``style.safetensors:0.7``.

    Raises:
        UsageError: no such file, or a scale that is no number.
    """
    name, colon, scale = text.rpartition(":")
    path = Path(text) if not colon or Path(text).is_file() else Path(name)
    if not path.is_file():
        raise UsageError(f"{path}: no such LoRA file.")
    try:
        return path, float(scale) if str(path) != text else 1.0
    except ValueError:
        raise UsageError(f"{text}: the scale {scale!r} is not a number.") from None


def _exporter(progress: Any) -> Callable[[Path, Path, Options], None]:
    """The export of a torch checkpoint, with a line for each component."""

    def export(checkpoint: Path, folder: Path, options: Options) -> None:
        from safegen_export.checkpoint import Lora, open_checkpoint
        from safegen_export.isolated import export_apart

        opened = open_checkpoint(checkpoint, without_t5=options.without_t5, null_class=options.null_class)
        opened = replace(opened, loras=tuple(Lora(path, scale) for path, scale in options.loras))
        task = progress.add_task("exporting", total=len(opened.components), note="")

        def report(name: str, seconds: float, size: int) -> None:
            progress.update(task, advance=1, note=name)
            when = f"{seconds:7.1f} s" if seconds else "  kept   "
            say(f"  exported {name:13} {when} {mib(size):>11}")

        export_apart(opened, folder, clip_skip=options.clip_skip, report=report)

    return export


def _show_folder(out: Path, options: Options, as_json: bool) -> None:
    """The ONNX folder, and the command that builds from it."""
    if as_json:
        answer({"onnx": str(out)})
        return
    print(out)
    say(
        f"  on the device: safegen build-engine {out.name} --target {options.target}{_precision(options)} -o engine/"
    )


def _show_engine(out: Path, manifest: Manifest, built: list[Built], as_json: bool) -> None:
    """The engine, and what it still needs."""
    if as_json:
        answer({"engine": str(out), "digest": manifest.digest, "components": [_figures(b) for b in built]})
        return
    print(out)
    what = "is sealed" if built else "is up to date: built from exactly this before"
    size = mib(sum(f.bytes for f in manifest.files.values()))
    say(f"  {manifest.name} {what}: {size}, digest {manifest.digest[:12]}")
    if manifest.allow_unguarded:
        say("  it may draw WITHOUT a guard (--allow-unguarded)")
    elif not manifest.bundle:
        say(f"  it draws only with a bundle: safegen freeze IMAGES -e {out} -o FILE.negation")
