"""Where arrays live and what stands in. If these fail, a GPU runs other arithmetic than was tested."""

import os
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import array_api_strict
import msgspec
import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.check.isolate import DiedError, in_own_process
from safegen.device import Device, open_device, to_host
from safegen.engine.engine import MODELS, Engine
from safegen.engine.session import CUDA, Session, _providers, load_cuda_libraries
from safegen.engine.session import TENSORRT as TENSORRT_PROVIDER
from safegen.engine.trt_session import check_fit, fits
from safegen.errors import EngineError, SafegenError
from safegen.format.bundle import read_bundle
from safegen.format.manifest import ANY_AMPERE, RTX, TENSORRT, Compiled
from safegen.machine import Gpu, available_memory, gpu, jetpack

STRICT = Device("cpu", array_api_strict)


@pytest.mark.parametrize(
    "guard", ["ratio", "theorem", "paper", "official:nudity", "spell", "sgf", "bank-mean"]
)
@pytest.mark.parametrize("name", ["fashion", "pixels"])
def test_nothing_between_noise_and_picture_needs_numpy(name: str, guard: str) -> None:
    """Every line that CuPy will run, run under the strictest array namespace: the same picture."""
    bundle = read_bundle(MODELS / name / "default.negation")
    asked = {"prompt": "a photo of a sneaker"} if name == "fashion" else {"class_label": 7}
    pictures = [
        Pipeline(Engine.open(name, device=device), bundle)(
            seed=1, steps=4, guard=guard, solver="ddim", **asked
        )[0]
        for device in (STRICT, None)
    ]
    strict, plain = (np.asarray(p.image).astype(int) for p in pictures)
    assert np.abs(strict - plain).max() <= 1
    assert pictures[0].verdict.opened == pictures[1].verdict.opened


@pytest.mark.parametrize("text_guard", ["safree", "sld:max"])
def test_text_guards_need_no_numpy(text_guard: str) -> None:
    """SAFREE's projections are made on the host, before the loop; what the loop then mixes is not."""
    pictures = [
        Pipeline.over(Engine.open("fashion", device=device))(
            ["a sneaker", "a bag"], seed=[1, 2], steps=4, text_guard=text_guard
        )
        for device in (STRICT, None)
    ]
    strict, plain = (np.stack([np.asarray(p.image).astype(int) for p in drawn]) for drawn in pictures)
    assert np.abs(strict - plain).max() <= 1


def test_an_image_to_start_from_needs_no_numpy() -> None:
    pictures = [
        Pipeline(Engine.open("fashion", device=device), read_bundle(MODELS / "fashion" / "default.negation"))(
            "a coat", steps=4, init=Image.new("RGB", (32, 32), "gray"), mask=Image.new("L", (32, 32), 255),
            strength=0.5,
        )[0]
        for device in (STRICT, None)
    ]  # fmt: skip
    strict, plain = (np.asarray(p.image).astype(int) for p in pictures)
    assert np.abs(strict - plain).max() <= 1


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


def test_the_tensorrt_provider_is_asked_for_by_name_and_never_replaced(tmp_path: Path) -> None:
    """On the device's own stream, with its engines kept; where it does not load, nothing draws."""

    class Stream:
        ptr = 1234

    given = _providers(Device("tensorrt", np, Stream()))
    names = [p if isinstance(p, str) else p[0] for p in given]
    assert names == [TENSORRT_PROVIDER, CUDA, "CPUExecutionProvider"]
    assert all(options["user_compute_stream"] == "1234" for _, options in given[:2])
    assert given[0][1]["trt_engine_cache_path"].endswith("safegen/tensorrt")
    with pytest.raises(EngineError, match="does not load here"):
        Session(MODELS / "fashion" / "text_encoder.onnx", device=Device("tensorrt", np, Stream()))
    with pytest.raises(SafegenError, match="known are cpu, cuda, tensorrt"):
        open_device("gpu")


def test_cuda_is_loaded_from_its_packages_without_a_word(monkeypatch, capsys) -> None:
    """ONNX Runtime finds CUDA in pip packages only when told to look, and prints what it misses: a
    program that reads --json would read that too."""
    looked = []
    monkeypatch.setattr(
        "onnxruntime.preload_dlls", lambda: (looked.append(1), print("Failed to load libcublas"))
    )
    load_cuda_libraries.cache_clear()
    _providers(Device("cuda", np, stream=SimpleNamespace(ptr=0)))
    assert looked
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
def test_a_gpu_engine_without_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(EngineError, match=r"CuPy|no NVIDIA GPU"):
        open_device("cuda")
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        check_fit(Path("unet.rtx"), Compiled("unet.rtx", None, RTX, "1.7", ["8.9"], {}), "1.7")


@pytest.mark.parametrize(
    ("backend", "capabilities", "here", "version", "word"),
    [
        (RTX, ["8.6", "8.9", "12.0"], "9.0", "1.7", "this GPU .* has 9.0"),
        (RTX, ["8.9", "12.0"], "7.5", "1.7", "compiled for compute capability 8.9, 12.0"),
        (TENSORRT, ["8.7"], "8.9", "10.3.0", "this GPU .* has 8.9"),
        (TENSORRT, ["8.7"], "8.7", "10.16.1", "compiled by TensorRT 10.3.0"),
    ],
)
def test_an_engine_for_another_gpu_is_refused(
    monkeypatch, backend, capabilities, here, version, word
) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", here, "12.6", 0))
    with pytest.raises(EngineError, match=word):
        check_fit(Path("x"), Compiled("x", None, backend, "10.3.0", capabilities, {}), version)


def test_an_engine_for_this_gpu_passes(monkeypatch) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", "8.7", "12.6", 0))
    check_fit(Path("x"), Compiled("x", None, TENSORRT, "10.3.0.26", ["8.7"], {}), "10.3.0.30")
    check_fit(Path("x"), Compiled("x", None, RTX, "1.7", ["8.6", "8.9"], {}), "1.7")


def test_a_portable_engine_outlives_updates_and_not_the_other_way(monkeypatch) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", "8.9", "12.6", 0))
    portable = Compiled("x", None, TENSORRT, "10.3.0", [ANY_AMPERE], {}, portable=True)
    check_fit(Path("x"), portable, "10.16.1")
    for version in ("10.2.0", "11.0.0"):
        with pytest.raises(EngineError, match="compiled by TensorRT"):
            check_fit(Path("x"), portable, version)
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Old GPU", "7.5", "12.6", 0))
    with pytest.raises(EngineError, match=r"this GPU .* has 7\.5"):
        check_fit(Path("x"), portable, "10.3.0")


def test_shapes_are_checked_before_the_library_sees_them() -> None:
    bounds = ([1, 4, 32, 32], [8, 4, 96, 96])
    assert fits(bounds, (8, 4, 96, 32))
    assert not fits(bounds, (9, 4, 96, 32))
    assert not fits(bounds, (1, 4, 16, 32))
    assert not fits(bounds, (1, 4, 32))


def add_one(number: int, progress) -> int:
    progress("adding", 0.5)
    return number + 1


def refuse(progress) -> None:
    raise EngineError("no")


def take(count: int, progress) -> int:
    return len(bytearray(count))


def crash(progress) -> None:
    os.abort()


def test_a_function_runs_in_a_process_of_its_own() -> None:
    seen = []
    assert in_own_process(add_one, 1, progress=lambda *report: seen.append(report)) == 2
    assert seen == [("adding", 0.5)]
    with pytest.raises(EngineError, match="no"):
        in_own_process(refuse)


def wait(progress) -> None:
    progress("waiting", 0.0)
    threading.Event().wait()


def test_ctrl_c_ends_it_at_once() -> None:
    def interrupt(*report) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_own_process(wait, progress=interrupt)  # would wait for ever


@pytest.mark.skipif(available_memory() is None, reason="only Linux limits a process's memory")
def test_too_much_memory_or_a_crash_stays_in_it() -> None:
    with pytest.raises(DiedError, match="memory ran out"):
        in_own_process(take, 2_000_000_000, memory=500_000_000)
    with pytest.raises(SafegenError, match="SIGABRT"):
        in_own_process(crash)


def test_facts_of_a_jetson(tmp_path: Path) -> None:
    release = tmp_path / "nv_tegra_release"
    assert jetpack(release) is None
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert jetpack(release) == "L4T 36.4.3"
    release.write_text("what is this")
    assert jetpack(release) == "unknown"


def test_free_memory_is_read_in_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert available_memory(meminfo) == 42 * 1024
    assert available_memory(tmp_path / "none") is None


def test_host_copies_are_numpy() -> None:
    assert isinstance(to_host(array_api_strict.ones(3)), np.ndarray)
