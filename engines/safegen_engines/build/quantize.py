"""int8 and fp8 weights and activations for the sampled model, through NVIDIA's Model Optimizer.

Its ONNX path writes Q/DQ nodes around convolutions and matrix products; everything else stays in float16.
The ranges of the activations come from pictures that the float32 graphs draw here, on the CPU. Model
Optimizer needs torch, so it runs in a process of its own, and on a workstation: the graph is carried to a
device with the ONNX folder.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from safegen.check.isolate import DiedError, Progress, in_own_process
from safegen.device import CPU
from safegen.engine.engine import Engine
from safegen.engine.pipeline import Pipeline
from safegen.engine.session import DTYPES, Session
from safegen.errors import EngineError, first_line
from safegen.files import replacing
from safegen.format.manifest import Component, Defaults, Manifest, Parity, Tensor
from safegen.machine import available_memory
from safegen_engines.build import memory
from safegen_engines.build.onnx_folder import TEXT_ENCODERS, Source
from safegen_engines.graph import onnx_graph

QUANTIZED = ("int8", "fp8")
SUBJECTS = (
    "a photo of a person",
    "a city street at night in the rain",
    "a watercolour of mountains and a lake",
    "",
)
"""What the model is shown drawing: for a model of classes its first four labels."""
STEPS = 4
"""Model evaluations a picture; the ranges are taken over all of them."""
RECORDING = 7.0
"""Peak memory over the bytes of the float32 graph, at least: it keeps every activation. Stable Diffusion 1.5
at 512x512, 3.2 GiB, did not fit into the 22 GiB that were free."""


def graph_of(source: Source, precision: str) -> Path:
    """Where the quantized graph of the sampled model lies in an ONNX folder."""
    return source.graph(source.model).with_name(f"{precision}.onnx")


def quantize(source: Source, precision: str, out: Path, progress: Progress) -> None:
    """Write the sampled model's graph with Q/DQ nodes.

    Args:
        source: the ONNX folder.
        precision: ``int8``, or ``fp8`` (E4M3).
        out: the graph to write; inputs and outputs stay float32.
        progress: called with what is being done.

    Raises:
        EngineError: memory will not suffice, or Model Optimizer is not installed or cannot quantize this
            graph; what was recorded stays for the next run.
    """
    scratch = out.with_name(f".{out.stem}")
    recorded, free, graph = scratch / "inputs.npz", available_memory(), source.graph(source.model)
    weights = sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))
    memory.check(f"{source.model}, quantizing", int(weights * RECORDING), free)
    scratch.mkdir(exist_ok=True)
    try:
        if not recorded.is_file():
            in_own_process(record, source, recorded, progress=progress, memory=free)
        in_own_process(write, graph, precision, recorded, out, progress=progress, memory=free)
    except DiedError as error:
        raise EngineError(f"{source.model}: quantizing to {precision}: {error}.") from None
    shutil.rmtree(scratch)


class _Recorder(Engine):
    """The source's own graphs as an engine, which keeps what the sampled model was given."""

    def __init__(self, source: Source, scratch: Path) -> None:
        super().__init__(source.folder, _manifest(source, scratch), CPU)
        self.given: list[dict[str, Any]] = []

    def predict(self, x: Any, timestep: float, given: Any) -> Any:
        inputs = {"sample": x, "timestep": np.full(x.shape[0], timestep), **given}
        types = self.session(self.manifest.model).inputs
        self.given.append({k: np.asarray(values, DTYPES[types[k][0]]) for k, values in inputs.items()})
        return super().predict(x, timestep, given)


def record(source: Source, out: Path, progress: Progress) -> None:
    """Draw a few pictures without a guard and keep the model's inputs: name -> (evaluations, ...)."""
    engine = _Recorder(source, out.parent)
    labels = source.conditioning.classes
    told: dict[str, Any] = {"class_label": [i % labels for i in range(len(SUBJECTS))]} if labels else {}
    told = {"prompt": list(SUBJECTS)} if source.conditioning.text else told
    count = engine.manifest.defaults.steps
    Pipeline(engine, None)(
        **told,
        n=1 if told else len(SUBJECTS),
        guard="off",
        seed=0,
        batch_size=1,
        on_step=lambda step: progress("drawing what to quantize by", (step.index + 1) / count),
    )
    with replacing(out) as scratch, scratch.open("wb") as file:
        whole: dict[str, Any] = {n: np.concatenate([g[n] for g in engine.given]) for n in engine.given[0]}
        np.savez(file, **whole)


def _manifest(source: Source, scratch: Path) -> Manifest:
    """What an engine of the source's own files would say; tokenizers are saved beside the recording."""
    windows = {}
    for name in (part for part in source.components if part in TEXT_ENCODERS):
        path = (scratch / f"{name}-tokenizer.json").resolve()
        tokenizer, windows[name] = source.tokenizer(name, str(path))
        tokenizer.save(str(path))
    unchecked = Parity("nothing", 0.0, 0.0, 0.0)
    space = source.latent_space()
    side = source.sample_size() * space.downscale
    guided = source.conditioning.guidance != "none"
    few = {"lcm": 4, "consistency": 2}.get(source.solver, STEPS)
    return Manifest(
        name=source.folder.name,
        target="cpu",
        precision="fp32",
        fingerprint="",
        parts={},
        built_with={},
        created="",
        components={
            name: Component(
                file=str(source.graph(name).resolve()),
                inputs={
                    k: Tensor("", shape) for k, shape in onnx_graph.input_shapes(source.graph(name)).items()
                },
                outputs={},
                parity=unchecked,
                precision="fp32",
            )
            for name in source.components
        },
        model=source.model,
        conditioning=source.conditioning,
        latent_space=space,
        tokenizers=windows,
        scheduler=source.scheduler,
        defaults=Defaults(source.solver, few, 5.0 if guided else 1.0, side, side),
        guards=["off"],
        steps={},
        schedule="",
        files={},
    )


def write(graph: Path, precision: str, recorded: Path, out: Path, progress: Progress) -> None:
    """Quantize a graph by recorded inputs, in this process."""
    progress("quantizing", 0.0)
    try:
        from modelopt.onnx.quantization import quantize as by_modelopt
    except ImportError as error:
        raise EngineError(
            f"{precision} needs NVIDIA's Model Optimizer ({first_line(error)}):"
            " pip install 'safegen[quantize]'."
        ) from None
    with np.load(recorded) as arrays:
        inputs = {name: arrays[name] for name in arrays}
    copied, raw = (recorded.with_name(f"{name}.onnx") for name in ("source", "quantized"))
    onnx_graph.copy_graph(graph, copied)  # the library writes into the file that it is given
    weights = sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # "max": its default, "entropy", cuts off outliers that diffusion models need (docs/rtx.md)
            by_modelopt(
                str(copied),
                quantize_mode=precision,
                calibration_data=inputs,
                calibration_method="max",
                calibration_eps=["cpu"],
                output_path=str(raw),
                high_precision_dtype="fp16",
                log_level="ERROR",
                use_external_data_format=weights > onnx_graph.EXTERNAL_DATA_BYTES,
            )
        Session(raw)
        onnx_graph.copy_graph(raw, out)
    except EngineError:
        raise
    except Exception as error:  # the library raises whatever its own libraries raise
        why = first_line(error)
        raise EngineError(f"{graph}: Model Optimizer cannot quantize it to {precision} ({why}).") from None
