"""A bare ONNX file, described by a few lines of TOML, as a folder in optimum's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
from onnx import TensorProto, helper

from safegen.errors import EngineError
from safegen.format.manifest import Conditioning
from safegen.sampling.consistency import CLASS_NAME
from safegen_engines.graph.onnx_graph import load_graph, save_graph

FILE_NAME = "safegen.toml"


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file calls its inputs."""

    sample: str
    noise_level: str
    label: str | None = None


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Class labels 0 to count - 1, for an input of labels or of a number that grows evenly with them."""

    count: int
    first: float | None = None
    last: float | None = None
    """The numbers of the first and the last label; left out, the input takes the label itself."""


class Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pixels that the model works on."""

    low: float = -1.0
    high: float = 1.0


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise levels, in the model's own units."""

    sigma_min: float
    sigma_max: float
    rho: float = 7.0


class Bare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``safegen.toml``: a consistency model of square pictures."""

    model: str
    """The ONNX file, in the same folder."""
    inputs: Inputs
    output: str
    schedule: Schedule
    labels: Labels | None = None
    values: Values = Values()


def is_bare(folder: Path) -> bool:
    """Whether a folder describes a bare ONNX file."""
    return (folder / FILE_NAME).is_file()


def write_onnx_folder(folder: Path, out: Path) -> None:
    """Rewrite the described model as optimum would have written it: ``out/unet/model.onnx`` and its like.

    Raises:
        EngineError: the description is wrong, or names what the file does not have.
    """
    path = folder / FILE_NAME
    try:
        bare = msgspec.toml.decode(path.read_bytes(), type=Bare)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise EngineError(f"{path}: {error}.") from None
    if not (folder / bare.model).is_file():
        raise EngineError(f"{folder / bare.model}: missing; {FILE_NAME} names it.")
    model = load_graph(folder / bare.model)
    _check(path, bare, model)
    shape = [d.dim_value for d in _named(model.graph.input, bare.inputs.sample).type.tensor_type.shape.dim]
    _wrap(bare, model)
    for part in ("unet", "scheduler"):
        (out / part).mkdir(parents=True, exist_ok=True)
    save_graph(model, out / "unet" / "model.onnx")
    classes = bare.labels.count if bare.labels else 0
    scale = (bare.values.high - bare.values.low) / 2
    levels = {"sigma_min": bare.schedule.sigma_min / scale, "sigma_max": bare.schedule.sigma_max / scale}
    contents: dict[str, dict[str, Any]] = {
        "unet/config.json": {"in_channels": shape[1], "sample_size": shape[2]},
        "scheduler/scheduler_config.json": {"_class_name": CLASS_NAME, **levels, "rho": bare.schedule.rho},
        "export.json": {
            "conditioning": msgspec.to_builtins(Conditioning(classes=classes, guidance="none")),
            "patch": 1,
        },
    }
    for name, content in contents.items():
        (out / name).write_text(json.dumps(content, indent=1))


def _check(path: Path, bare: Bare, model: onnx.ModelProto) -> None:
    inputs, outputs = ({v.name for v in values} for values in (model.graph.input, model.graph.output))
    named = {v for v in (bare.inputs.sample, bare.inputs.noise_level, bare.inputs.label) if v}
    if named != inputs:
        found = ", ".join(sorted(inputs))
        raise EngineError(f"{path}: inputs are {', '.join(sorted(named))}; {bare.model} has {found}.")
    if bare.output not in outputs:
        raise EngineError(f"{path}: output is {bare.output}; {bare.model} has {', '.join(sorted(outputs))}.")
    if (bare.labels is None) != (bare.inputs.label is None):
        raise EngineError(f"{path}: labels and inputs.label go together.")
    if bare.values.high <= bare.values.low:
        raise EngineError(f"{path}: values.high must be above values.low.")
    shape = _named(model.graph.input, bare.inputs.sample).type.tensor_type.shape.dim
    if (
        len(shape) != 4
        or shape[1].dim_value not in (1, 3)
        or not shape[2].dim_value == shape[3].dim_value > 0
    ):
        raise EngineError(f"{path}: {bare.inputs.sample} must be (batch, 1 or 3, side, side), sides fixed.")


def _named(values: Any, name: str) -> Any:
    return next(value for value in values if value.name == name)


def _wrap(bare: Bare, model: onnx.ModelProto) -> None:
    """Give the graph our inputs in our units: pixels in [-1, 1], whole labels.

    x_model = k x + m, so a noise level of ours is k times as large to the model.
    """
    graph = model.graph
    scale, shift = (bare.values.high - bare.values.low) / 2, (bare.values.high + bare.values.low) / 2
    before: list[onnx.NodeProto] = []
    sample, level = (_named(graph.input, name) for name in (bare.inputs.sample, bare.inputs.noise_level))
    given = [_like(sample, "sample"), _like(level, "timestep")]
    before += _linear(graph, "sample", bare.inputs.sample, scale, shift)
    before += _linear(graph, "timestep", bare.inputs.noise_level, scale, 0.0)
    if bare.labels and bare.inputs.label:
        given.append(helper.make_tensor_value_info("class_labels", TensorProto.INT64, ["batch"]))
        label = _named(graph.input, bare.inputs.label)
        kind = label.type.tensor_type.elem_type
        first = bare.labels.first or 0.0
        last = bare.labels.count - 1.0 if bare.labels.last is None else bare.labels.last
        slope = (last - first) / max(bare.labels.count - 1, 1)
        before.append(helper.make_node("Cast", ["class_labels"], ["class_number"], to=TensorProto.FLOAT))
        before += _linear(graph, "class_number", "class_value", slope, first)
        before.append(helper.make_node("Cast", ["class_value"], [bare.inputs.label], to=kind))
    result = _like(_named(graph.output, bare.output), "out_sample")
    after = _linear(graph, bare.output, "out_sample", 1 / scale, -shift / scale)
    nodes = [*before, *graph.node, *after]
    for field, content in ((graph.input, given), (graph.output, [result]), (graph.node, nodes)):
        kept = list(content)
        del field[:]
        field.extend(kept)


def _like(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _linear(graph: onnx.GraphProto, given: str, result: str, factor: float, term: float) -> list[Any]:
    """Nodes for result = factor given + term."""
    constants = {f"{given}_factor": factor, f"{given}_term": term}
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items()
    )
    return [
        helper.make_node("Mul", [given, f"{given}_factor"], [f"{given}_scaled"]),
        helper.make_node("Add", [f"{given}_scaled", f"{given}_term"], [result]),
    ]
