"""``*_ctx.onnx``: a compiled engine as one EPContext node, so that hosts of ONNX Runtime can open it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from safegen.format.manifest import OPSET, RTX, TENSORRT, Compiled

DOMAIN = "com.microsoft"
SOURCE = {RTX: "NvTensorRTRTXExecutionProvider", TENSORRT: "TensorrtExecutionProvider"}
"""The execution provider that reads each kind of engine."""


def is_readable(backend: str, version: str) -> bool:
    """Whether ONNX Runtime's provider opens such an engine: that of TensorRT is made for TensorRT 10."""
    return backend == RTX or version.startswith("10.")


def write(graph: Path, out: Path, compiled: Compiled) -> None:
    """Write the wrapper of a compiled engine.

    Args:
        graph: the portable graph, for its inputs and outputs.
        out: the file to write, in the folder of the engine file: ONNX Runtime takes no other path.
        compiled: what was compiled.
    """
    portable = onnx.load(graph, load_external_data=False).graph
    node = helper.make_node(
        "EPContext",
        [value.name for value in portable.input],
        [value.name for value in portable.output],
        name=f"{Path(compiled.file).stem}_{compiled.backend}",
        domain=DOMAIN,
        main_context=1,
        embed_mode=0,
        ep_cache_context=compiled.file,
        ep_sdk_version=compiled.version,
        hardware_architecture=",".join(compiled.capabilities),
        onnx_model_filename=graph.name,
        partition_name=Path(compiled.file).stem,
        source=SOURCE[compiled.backend],
    )
    wrapped = helper.make_graph([node], out.stem, list(portable.input), list(portable.output))
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    onnx.save_model(helper.make_model(wrapped, opset_imports=imports, ir_version=10), out)
