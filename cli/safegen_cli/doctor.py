"""``safegen doctor``: what this machine can run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safegen_cli.console import Json, answer

if TYPE_CHECKING:
    from safegen.check.doctor import Need, Probe


def doctor(
    engine: Annotated[list[Path] | None, typer.Option("-e", "--engine", help="Also say whether this engine runs here (repeatable).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run something real on every provider and compiler that is installed here, and say what works.

    Example: safegen doctor -e engine/
    """
    from safegen.check.doctor import machine, need_of, probe, probe_compilers
    from safegen.engine.engine import MODELS

    facts = machine()
    probes = [*probe(MODELS / "fashion" / "text_encoder.onnx"), *probe_compilers()]
    needs = [need_of(folder) for folder in engine or []]
    works = {p.provider for p in probes if p.works}
    sentence = advice(works, probes, facts, needs)
    if as_json:
        lists = {"providers": [p.__dict__ for p in probes], "engines": [n.__dict__ for n in needs]}
        answer({**facts, **lists, "advice": sentence})
    else:
        for key, value in facts.items():
            print(f"{key:12} {value}")
        for p in probes:
            print(f"{p.provider:26} {'works' if p.works else 'FAILS'}  {p.detail}")
        for n in needs:
            free = "unknown" if n.free is None else f"{n.free:.1f} GiB"
            print(f"{n.engine}: weights {n.gib:.1f} GiB, free {free}: {n.problem or 'fits'}")
        print(sentence)
    if not works or any(n.problem for n in needs):
        sys.exit(1)
    raise typer.Exit


def advice(works: set[str], probes: list[Probe], facts: dict[str, str], needs: list[Need]) -> str:
    """The one thing to do next."""
    from safegen.format.manifest import RTX, TENSORRT

    problems = [n.problem for n in needs if n.problem]
    failed = [p for p in probes if p.provider in (RTX, TENSORRT) and not p.works]
    why = f": {failed[0].provider} says {failed[0].detail}" if failed else ""
    own = "the target of its JetPack" if "jetson linux" in facts else "--target tensorrt"
    sentences = (
        (problems, "".join(problems[:1])),
        (not works, "ONNX Runtime does not work here: pip install --force-reinstall onnxruntime."),
        (RTX in works, "Build with 'safegen build-engine CHECKPOINT --target rtx -o engine/'."),
        (TENSORRT in works, f"Build here, with 'safegen build-engine FOLDER -o engine/' and {own}."),
        ("CUDAExecutionProvider" in works, "Build with 'safegen build-engine CHECKPOINT --target cuda'."),
        (facts["gpu"] != "none", f"Nothing uses the GPU{why}. See docs/rtx.md, on a Jetson docs/jetson.md."),
    )
    draws = "This machine draws with the target cpu; start with 'safegen generate \"a coat\"'."
    return next((sentence for holds, sentence in sentences if holds), draws)
