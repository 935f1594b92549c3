"""Optimization profiles: the shapes that a compiled engine takes, from the target and the checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

from safegen.errors import EngineError
from safegen.machine import gpu
from safegen_engines.build.onnx_folder import VAE, Source
from safegen_engines.build.target import Target
from safegen_engines.freeze.axes import MOST
from safegen_engines.graph import onnx_graph
from safegen_engines.graph.trt_compile import Profile

LARGEST_BANK = 16384
"""Images."""


def component_shapes(source: Source, component: str, target: Target) -> Profile:
    """The smallest, usual and largest shape of each input of a component.

    The usual one draws a single picture with guidance at the checkpoint's own size.
    """
    rows: Profile = {}
    for name, shape in onnx_graph.input_shapes(source.graph(component)).items():
        sizes = [
            [_dim(source, component, target, shape, axis, which) for axis in range(len(shape))]
            for which in range(3)
        ]
        low, usual, high = (tuple(size) for size in sizes)
        rows[name] = (low, usual, high)
    return rows


def step_shapes(graph: Path, target: Target) -> Profile:
    """The same for a step graph: pictures that share a step, and banks of as many images, by regions too."""
    inputs = onnx_graph.input_shapes(graph)
    regions = str(inputs["latched"][0])  # "B" pictures, or "4*B" regions
    parts = int(regions.removesuffix("*B")) if regions != "B" else 1
    apart = math.prod(map(int, inputs["x"][1:])) // int(inputs["refs"][1])  # of an image in the benign bank
    rows = apart if parts == apart else 1  # in the other; regions that overlap look for one thing
    batch = (1, 1, target.sides.batch)
    sizes = {
        "B": batch,
        regions: tuple(parts * n for n in batch),
        "N": (rows, 500 * rows, LARGEST_BANK * rows),
        "M": (apart, 1000 * apart, LARGEST_BANK * apart),
        "K": (1, MOST, MOST),
    }
    return {
        name: tuple(tuple(sizes[d][i] if isinstance(d, str) else d for d in shape) for i in range(3))  # type: ignore[misc]
        for name, shape in inputs.items()
    }


def _dim(
    source: Source, component: str, target: Target, shape: list[int | str], axis: int, which: int
) -> int:
    """One dimension: batch first; rows and columns of a picture; tokens of text."""
    fixed = shape[axis]
    if isinstance(fixed, int):
        return fixed
    if axis == 0:
        guided = 2 if component == source.model and source.conditioning.guidance == "classifier-free" else 1
        return (1, guided, 1 if component in VAE else target.sides.batch)[which]
    if len(shape) == 4:
        return _side(source, component, target, which)
    windows = (1, 1, target.sides.windows)[which]
    return source.window(component) * windows


def _side(source: Source, component: str, target: Target, which: int) -> int:
    """A picture's side at a share of its usual one, in the pixels or latents that the component sees."""
    space = source.latent_space()
    multiple = source.side_multiple()
    share = (target.sides.smallest, 1.0, target.sides.largest)[which]
    side = max(multiple, round(source.sample_size() * share / multiple) * multiple)
    return side * (space.downscale if component == "vae_encoder" else 1)


def capability_here() -> str:
    """The compute capability of this machine's GPU.

    Raises:
        EngineError: there is none.
    """
    here = gpu()
    if here is None:
        raise EngineError("no NVIDIA GPU answers on this machine; run 'safegen doctor'.")
    return here.capability
