"""A bare ONNX file with a few lines of TOML. If these fail, people's own models draw with wrong inputs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from safegen import Pipeline
from safegen.engine.session import Session
from safegen.errors import EngineError
from safegen.format.manifest import read_manifest
from safegen.sampling.noise import normal_batch
from safegen_engines.build import build as engines
from safegen_engines.build.options import Options
from safegen_engines.build.own_model import write_onnx_folder

pytestmark = pytest.mark.slow

TOML = """
model = "x.onnx"
output = "clean"
[inputs]
sample = "noisy"
noise_level = "sigma"
label = "hardness"
[labels]
count = 11
first = 0.5
last = 1.5
[schedule]
sigma_min = 0.01
sigma_max = 10.0
"""


def write_model(folder: Path) -> Path:
    """clean = hardness tanh(noisy / sigma): what reaches it can be told from what comes out."""
    folder.mkdir(exist_ok=True)
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    spread = helper.make_tensor("spread", TensorProto.INT64, [4], [-1, 1, 1, 1])
    nodes = [
        helper.make_node("Reshape", ["sigma", "spread"], ["level"]),
        helper.make_node("Reshape", ["hardness", "spread"], ["hard"]),
        helper.make_node("Div", ["noisy", "level"], ["unit"]),
        helper.make_node("Tanh", ["unit"], ["squashed"]),
        helper.make_node("Mul", ["squashed", "hard"], ["clean"]),
    ]
    inputs = [value("noisy", ["batch", 1, 8, 8]), value("sigma", ["batch"]), value("hardness", ["batch"])]
    graph = helper.make_graph(nodes, "x", inputs, [value("clean", ["batch", 1, 8, 8])], [spread])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), folder / "x.onnx")
    (folder / "safegen.toml").write_text(TOML)
    return folder


def build(folder: Path, out: Path) -> Pipeline:
    engines.build(folder, out / "engine", Options(allow_unguarded=True))
    return Pipeline.load(out / "engine")


def test_inputs_labels_and_noise_levels_reach_the_file_in_its_own_units(tmp_path: Path) -> None:
    pipeline = build(write_model(tmp_path / "own"), tmp_path)
    picture = pipeline(class_label=7, seed=3, guard="off")[0]
    noise = normal_batch([3], 0, (1, 8, 8))[0, 0]
    expected = 1.2 * np.tanh(noise)  # label 7 of 0..10 from 0.5 to 1.5; sigma cancels at the first step
    pixels = np.round((np.clip(expected, -1, 1) / 2 + 0.5) * 255)
    assert np.abs(np.asarray(picture.image)[:, :, 0] - pixels).max() <= 1
    assert read_manifest(tmp_path / "engine").defaults.steps == 1


def test_pixels_from_0_to_1_draw_the_same_pictures(tmp_path: Path) -> None:
    """x_model = (x + 1) / 2, so the same noise level is half as large to the model."""
    plain = build(write_model(tmp_path / "own"), tmp_path)
    other = write_model(tmp_path / "unit")
    model = onnx.load(other / "x.onnx")
    half = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("two", 2.0), ("one", 1.0))]
    model.graph.initializer.extend(half)
    nodes = list(model.graph.node)
    nodes[2].input[:] = ["wide", "level2"]
    nodes[4].output[:] = ["before"]
    nodes[2:2] = [
        helper.make_node("Mul", ["noisy", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["wide"]),
        helper.make_node("Mul", ["level", "two"], ["level2"]),
    ]
    nodes += [
        helper.make_node("Add", ["before", "one"], ["up"]),
        helper.make_node("Div", ["up", "two"], ["clean"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, other / "x.onnx")
    units = "sigma_min = 0.005\nsigma_max = 5.0\n[values]\nlow = 0.0\nhigh = 1.0\n"
    (other / "safegen.toml").write_text(TOML.split("sigma_min", maxsplit=1)[0] + units)
    (tmp_path / "second").mkdir()
    rescaled = build(other, tmp_path / "second")
    for steps in (1, 3):
        a, b = (p(class_label=4, seed=1, steps=steps, guard="off")[0].image for p in (plain, rescaled))
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('sample = "noisy"', 'sample = "x"', "x.onnx has hardness, noisy, sigma"),
        ('output = "clean"', 'output = "y"', "output is y"),
        ('model = "x.onnx"', 'model = "none.onnx"', "none.onnx: missing"),
        ("sigma_min = 0.01", "sigma_mean = 0.01", "sigma_m"),
        ("[labels]\ncount = 11\nfirst = 0.5\nlast = 1.5\n", "", "go together"),
        ("count = 11", "count =", "safegen.toml"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(tmp_path: Path, old: str, new: str, word: str) -> None:
    folder = write_model(tmp_path / "own")
    (folder / "safegen.toml").write_text(TOML.replace(old, new))
    with pytest.raises(EngineError, match=word):
        write_onnx_folder(folder, tmp_path / "onnx")


def test_one_step_is_guarded_too(embedded: Path) -> None:
    """x_t is nothing but noise there, but what the model foresees in it is not."""
    sneaker, bag = Pipeline.load(embedded)(["a sneaker", "a bag"], steps=1)
    assert sneaker.verdict.opened == 1
    assert bag.verdict.opened == 0


@pytest.fixture(scope="module")
def terrain() -> Path:
    """A real one-step model that somebody else trained (MIT), from its package."""
    folder = tiny.ROOT / "build" / "terrain"
    if not list(folder.glob("*.onnx")):
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*download, "adaptive-terrain-diffusion==0.4.2"], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".onnx"))
            (folder / Path(name).name).write_bytes(wheel.read(name))
    page = (tiny.ROOT / "docs" / "own-model.md").read_text()
    (folder / "safegen.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    return folder


def test_the_example_of_the_docs_draws_what_its_own_file_draws(terrain: Path, tmp_path: Path) -> None:
    pipeline = build(terrain, tmp_path)
    ours = pipeline(class_label=[9, 79], seed=[4, 4], guard="off")
    noisy = 80.0 * normal_batch([4, 4], 0, (1, 128, 128))
    inputs = {"noisy": noisy, "sigma": [80.0] * 2, "difficulty": [9 / 99, 79 / 99]}
    clean = Session(next(terrain.glob("*.onnx"))).run(**inputs)["denoised"]
    expected = np.round((np.clip(clean, -1, 1) / 2 + 0.5) * 255)[:, 0]
    assert expected.std() > 5
    for picture, theirs in zip(ours, expected, strict=True):
        assert np.abs(np.asarray(picture.image)[:, :, 0] - theirs).max() <= 1
