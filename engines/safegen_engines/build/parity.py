"""The parity gate: what ships against what it was made from, on random inputs at two sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from safegen.engine.session import DTYPES, Session
from safegen.errors import EngineError
from safegen.format.manifest import Parity
from safegen_engines.build.onnx_folder import Source

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 0.25, "fp8": 0.25}
"""Largest difference over the largest value. fp32: rounding in another order of addition gives about
1e-6 a component; fp16 has 11 bits, so single operations differ by 5e-4 and a deep UNet by ten times that;
bf16 has 8 bits, and only its weights are rounded where a CPU checks it; int8 and fp8 round activations, too:
their gate finds a broken graph, and pictures say how good one is (docs/rtx.md)."""


class NotFiniteError(EngineError):
    """A graph gave NaN or infinity: in half precision, values beyond 65504."""


Case = tuple[dict[str, Any], dict[str, Any]]
"""(inputs, expected outputs) by name."""


def check(component: str, session: Session, cases: list[Case], reference: str, precision: str) -> Parity:
    """Compare a graph with its reference.

    Raises:
        NotFiniteError: NaN or infinity.
        EngineError: a difference above the tolerance; the message has figures.
    """
    max_abs = max_rel = 0.0
    for inputs, expected in cases:
        outputs = session.run(**inputs)
        for name, wanted in expected.items():
            found = outputs[name].astype(np.float64)
            if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
                raise NotFiniteError(f"{component}: {name} has NaN or infinity in {precision}.")
            difference = float(np.abs(found - wanted).max())
            max_abs = max(max_abs, difference)
            max_rel = max(max_rel, difference / max(float(np.abs(wanted).max()), 1e-12))
    if max_rel > TOLERANCE[precision]:
        raise EngineError(
            f"{component}: the {precision} graph differs from {reference} by {max_rel:.1e} of the"
            f" largest value; at most {TOLERANCE[precision]:.0e} is allowed."
        )
    return Parity(reference, max_abs, max_rel, TOLERANCE[precision])


def read_cases(source: Source, component: str) -> tuple[str, list[Case]]:
    """The reference's name and its cases: torch's, or those of the source graph run as written."""
    stored = source.folder / component / "reference.npz"
    if stored.is_file():
        with np.load(stored) as arrays:
            return "torch", [_case(arrays, i) for i in range(2)]
    return "source graph", list(_run_source(source, component))


def _case(arrays: Mapping[str, Any], i: int) -> Case:
    inputs, outputs = (
        {k.split(".", 2)[2]: arrays[k] for k in arrays if k.startswith(f"{i}.{side}.")}
        for side in ("in", "out")
    )
    return inputs, outputs


def _run_source(source: Source, component: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    session = Session(source.graph(component), optimize=False)
    for batch, height, width in _sizes(source, component):
        inputs = {
            name: _random(rng, source, dtype, name, shape, (batch, height, width))
            for name, (dtype, shape) in session.inputs.items()
        }
        outputs = session.run(**inputs)
        yield inputs, {k: v.astype(np.float64) for k, v in outputs.items()}


def _sizes(source: Source, component: str) -> tuple[tuple[int, int, int], ...]:
    """As the export does: a square and an oblong that the model can halve; pixels to encode."""
    multiple = source.side_multiple()
    side = max(multiple, min(source.sample_size(), 32) // multiple * multiple)
    scale = source.latent_space().downscale if component == "vae_encoder" else 1
    return (2, side * scale, side * scale), (3, side * scale, (side + multiple) * scale)


def _random(
    rng: np.random.Generator,
    source: Source,
    dtype: str,
    name: str,
    shape: list[Any],
    size: tuple[int, int, int],
) -> Any:
    """A random input. Named dimensions: batch, height and width of pictures; batch and tokens of text."""
    text = source.config("text_encoder") if "text_encoder" in source.components else {}
    length = int(text.get("max_position_embeddings", 0))
    named = size if len(shape) == 4 else (size[0], length, int(text.get("hidden_size", 0)))
    axes = [0, 1, 1, 2] if len(shape) == 4 else [0, 1, 2]
    dims = tuple(d if isinstance(d, int) else named[axis] for d, axis in zip(shape, axes, strict=False))
    if "int" in dtype:
        high = {"input_ids": int(text.get("vocab_size", 0))}.get(name, source.conditioning.classes or 999)
        return rng.integers(0, high, dims).astype(DTYPES[dtype])
    values = rng.uniform(0, 999, dims) if name == "timestep" else rng.standard_normal(dims)
    return np.asarray(values, DTYPES.get(dtype, np.float32))
