"""``safegen doctor``: what this machine can run."""

from __future__ import annotations

import sys

import typer

from safegen_cli.console import Json, answer


def doctor(as_json: Json = False) -> None:
    """Run a real graph on every provider that ONNX Runtime offers here, and say what works.

    Example: safegen doctor
    """
    from safegen.engine import Engine
    from safegen.pipeline import EMBEDDED
    from safegen.probe import machine, probe

    graph = Engine.open(EMBEDDED).folder / "text_encoder.onnx"
    facts, probes = machine(), probe(graph)
    good = [p.provider for p in probes if p.works]
    if "CPUExecutionProvider" in good:
        sentence = "This machine draws with the target cpu; start with 'safegen generate \"a coat\"'."
    else:
        sentence = "ONNX Runtime does not work here; reinstall it: pip install --force-reinstall onnxruntime."
    if as_json:
        answer({**facts, "providers": [p.__dict__ for p in probes], "advice": sentence})
    else:
        for key, value in facts.items():
            print(f"{key:12} {value}")
        for p in probes:
            print(f"{p.provider:26} {'works' if p.works else 'FAILS'}  {p.detail}")
        print(sentence)
    if not good:
        sys.exit(1)
    raise typer.Exit
