"""ONNX graphs made ready for ONNX Runtime: half precision, offline optimization, moving weights."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_model

from safegen.session import Session

EXTERNAL_DATA_BYTES = 1_900_000_000
Inputs = dict[str, NDArray[np.generic]]


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Save a graph with all its weights inside, or in one ``.data`` file where they pass 2 GB.

    What exporters note about the source of each node is left out: it can be half of a small file.
    """
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    onnx.save_model(
        model,
        path,
        save_as_external_data=weights > EXTERNAL_DATA_BYTES,
        location=f"{path.name}.data",
    )
    for data in path.parent.glob(f"{path.name}.data"):
        data.chmod(path.stat().st_mode)  # onnx writes it for its owner alone


def load_graph(path: Path) -> onnx.ModelProto:
    """Load a graph with all its weights in memory."""
    model = onnx.load(path, load_external_data=False)
    load_external_data_for_model(model, str(path.parent))
    return model


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in float16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, disable_shape_infer=True, min_positive_val=1e-7
    )
    return half


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


def faster(plain: Path, optimized: Path, inputs: Inputs, runs: int = 5) -> bool:
    """Whether the optimized graph opens and runs at least 3 % faster, both measured in turn."""
    seconds: dict[Path, list[float]] = {plain: [], optimized: []}
    for _ in range(3):
        for path, times in seconds.items():
            began = time.perf_counter()
            session = Session(path)
            for _ in range(runs):
                session.run(**inputs)
            times.append(time.perf_counter() - began)
    return statistics.median(seconds[optimized]) < 0.97 * statistics.median(seconds[plain])
