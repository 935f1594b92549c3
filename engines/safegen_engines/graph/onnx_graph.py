"""ONNX graphs made ready for ONNX Runtime: half precision, offline optimization, moving weights."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from safegen.engine.session import Session

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
EXTERNAL_DATA_BYTES = 1_900_000_000
NORMS = ("InstanceNormalization", "LayerNormalization", "ReduceMean", "Pow")
"""Kept in float32, as torch computes them inside: their sums of squares leave float16's range first."""
Inputs = dict[str, NDArray[np.generic]]


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Save a graph with all its weights inside, or in one ``.data`` file where they pass 2 GB.

    What exporters note about the source of each node is left out: it can be half of a small file.
    """
    _strip(model)
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    onnx.save_model(
        model,
        path,
        save_as_external_data=weights > EXTERNAL_DATA_BYTES,
        location=f"{path.name}.data",
    )
    for data in path.parent.glob(f"{path.name}.data"):
        data.chmod(path.stat().st_mode)  # onnx writes it for its owner alone


def copy_graph(source: Path, out: Path) -> None:
    """Save a graph under another name as :func:`save_graph` does.

    Weights that lie in a file beside the graph are copied as a file, never held in memory: those of
    Stable Diffusion XL are 10 GB.
    """
    model = onnx.load(source, load_external_data=False)
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    files = {entry.value for t in outside for entry in t.external_data if entry.key == "location"}
    if len(files) != 1:
        save_graph(load_graph(source), out)
        return
    data = out.with_name(f"{out.name}.data")
    for entry in (e for t in outside for e in t.external_data if e.key == "location"):
        entry.value = data.name
    _strip(model)
    shutil.copyfile(source.parent / files.pop(), data)
    onnx.save_model(model, out)


def input_shapes(path: Path) -> dict[str, list[int | str]]:
    """The inputs of a graph with their dimensions, numbers or names; weights beside it are not read."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}  # old graphs list them as inputs, too
    return {
        given.name: [
            d.dim_value if d.HasField("dim_value") else d.dim_param or "dynamic"
            for d in given.type.tensor_type.shape.dim
        ]
        for given in graph.input
        if given.name not in weights
    }


def _strip(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]


def load_graph(path: Path) -> onnx.ModelProto:
    """Load a graph with all its weights in memory."""
    model = onnx.load(path, load_external_data=False)
    load_external_data_for_model(model, str(path.parent))
    return model


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in float16; norms, inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        min_positive_val=1e-7,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *NORMS],
    )
    drop_repeated(half.graph)
    return half


def drop_repeated(graph: onnx.GraphProto) -> None:
    """Keep the first of nodes with the same output, in place.

    ONNX Runtime 1.31's converter casts a value again for each node that stays in float32.
    """
    first: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for output in node.output:
            first.setdefault(output, i)
    for i in reversed(range(len(graph.node))):
        if any(first[output] != i for output in graph.node[i].output):
            del graph.node[i]


def to_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """As :func:`to_fp16`, in bfloat16: the same graph, with float32's range and 8 bits of precision."""
    full = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == FLOAT}
    typed = to_fp16(model)
    for tensor in typed.graph.initializer:
        if tensor.data_type == FLOAT16:
            values = full.get(tensor.name)
            exact = numpy_helper.to_array(tensor) if values is None else values
            tensor.CopyFrom(numpy_helper.from_array(exact.astype(ml_dtypes.bfloat16), tensor.name))
    for attribute in (a for node in typed.graph.node for a in node.attribute):
        if attribute.name == "to" and attribute.i == FLOAT16:
            attribute.i = onnx.TensorProto.BFLOAT16
        if attribute.HasField("t") and attribute.t.data_type == FLOAT16:
            exact = numpy_helper.to_array(attribute.t).astype(ml_dtypes.bfloat16)
            attribute.t.CopyFrom(numpy_helper.from_array(exact, attribute.t.name))
    return typed


def round_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights rounded to bfloat16, arithmetic in float32: what of bfloat16 a CPU can check."""
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    return model


def optimize_offline(source: Path, out: Path) -> None:
    """Save ONNX Runtime's optimized graph.

    Level EXTENDED: fused operators of ONNX Runtime's CPU provider, but no memory layout of one
    instruction set, which ORT_ENABLE_ALL would write into the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    if sum(f.stat().st_size for f in source.parent.glob(f"{source.name}*")) > EXTERNAL_DATA_BYTES:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{out.name}.data"
        )
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def faster(plain: Path, optimized: Path, inputs: Inputs) -> bool:
    """Whether the optimized graph opens and runs at least 3 % faster, both measured in turn.

    Three rounds of five runs; one round of one where a run takes over a second.
    """
    began = time.perf_counter()
    Session(plain).run(**inputs)
    rounds, runs = (1, 1) if time.perf_counter() - began > 1.0 else (3, 5)
    seconds: dict[Path, list[float]] = {plain: [], optimized: []}
    for _ in range(rounds):
        for path, times in seconds.items():
            began = time.perf_counter()
            session = Session(path)
            for _ in range(runs):
                session.run(**inputs)
            times.append(time.perf_counter() - began)
    return statistics.median(seconds[optimized]) < 0.97 * statistics.median(seconds[plain])
