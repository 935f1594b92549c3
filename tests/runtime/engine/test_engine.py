"""Compiled graphs and what stands in. If these fail, a picture is NaN, or a batch is refused."""

import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest

from safegen import Pipeline
from safegen.device import Device, open_device
from safegen.engine.engine import MODELS, Engine
from safegen.engine.trt_session import check_fit
from safegen.errors import EngineError
from safegen.format.bundle import read_bundle
from safegen.format.manifest import RTX, Compiled
from safegen.machine import gpu


class Compiles:
    """Stands for a compiled graph that leaves half precision's range."""

    def __init__(self, folder: Path, compiled: Compiled, device: Device, *, cuda_graphs: bool) -> None:
        self.real = Engine.open(folder.name).session(Path(compiled.file).stem)
        self.inputs, self.outputs = self.real.inputs, self.real.outputs

    def run(self, **inputs):
        return {name: values * np.float32("nan") for name, values in self.real.run(**inputs).items()}


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_a_compiled_graph_that_gives_nan_is_replaced_by_its_float32_one(monkeypatch, component: str) -> None:
    engine = Engine.open("fashion")
    plain = Pipeline(engine, read_bundle(MODELS / "fashion" / "default.negation"))("a coat", steps=3)[0]
    compiled = Compiled(f"{component}.rtx", None, RTX, "1.7", ["8.9"], {"x": [[1], [1], [64]]})
    parts = dict(engine.manifest.components)
    parts[component] = msgspec.structs.replace(parts[component], compiled=compiled)
    broken = Engine(engine.folder, msgspec.structs.replace(engine.manifest, components=parts), engine.device)
    monkeypatch.setattr("safegen.engine.engine.TrtSession", Compiles)
    pipeline = Pipeline(broken, read_bundle(MODELS / "fashion" / "default.negation"))
    with pytest.warns(RuntimeWarning, match=f"{component} gave NaN"):
        picture = pipeline("a coat", steps=3)[0]
    assert np.array_equal(np.asarray(picture.image), np.asarray(plain.image))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once a process, not once a picture
        pipeline("a coat", steps=2)


class TakesTwo(Compiles):
    """Stands for a compiled graph whose largest batch is 2."""

    def run(self, **inputs):
        assert all(x.shape[0] <= 2 for x in inputs.values())
        return self.real.run(**inputs)


def test_a_batch_larger_than_a_compiled_graph_takes_is_drawn_in_parts(monkeypatch) -> None:
    engine = Engine.open("fashion")
    bundle = read_bundle(MODELS / "fashion" / "default.negation")
    plain = Pipeline(engine, bundle)("a coat", n=5, steps=2, batch_size=5)
    monkeypatch.setattr("safegen.engine.engine.TrtSession", TakesTwo)
    parts = {
        name: msgspec.structs.replace(
            part, compiled=Compiled(f"{name}.rtx", None, RTX, "1.7", ["8.9"], {"x": [[1], [1], [2]]})
        )
        for name, part in engine.manifest.components.items()
    }
    manifest = msgspec.structs.replace(engine.manifest, components=parts)
    pictures = Pipeline(Engine(engine.folder, manifest, engine.device), bundle)(
        "a coat", n=5, steps=2, batch_size=5
    )
    for ours, theirs in zip(pictures, plain, strict=True):
        assert np.abs(np.asarray(ours.image).astype(int) - np.asarray(theirs.image)).max() <= 1


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
def test_a_gpu_engine_without_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(EngineError, match=r"CuPy|no NVIDIA GPU"):
        open_device("cuda")
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        check_fit(Path("unet.rtx"), Compiled("unet.rtx", None, RTX, "1.7", ["8.9"], {}), "1.7")
