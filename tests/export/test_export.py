"""Export. If these fail, a checkpoint is misread, or a half-known one is drawn wrongly."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from safegen.errors import ExportError
from safegen_engines.build.onnx_folder import open_source
from safegen_export import to_onnx as exporter
from safegen_export.checkpoint import open_checkpoint
from safegen_export.graphs import latent_space_id, load_vae, open_graphs

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_graphs_are_opset_20_with_named_dynamic_dimensions(onnx_folder: Path) -> None:
    shapes = {}
    for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        model = onnx.load(onnx_folder / name / "model.onnx")
        assert {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")} == {20}
        for given in model.graph.input:
            dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
            shapes[f"{name}.{given.name}"] = dims
    assert shapes["unet.sample"] == ["batch", 4, "height", "width"]
    assert shapes["unet.timestep"] == ["batch"]
    assert shapes["unet.encoder_hidden_states"] == ["batch", "tokens", 32]
    assert shapes["text_encoder.input_ids"] == ["batch", 24]
    assert shapes["vae_decoder.latent_sample"] == ["batch", 4, "height", "width"]
    assert shapes["vae_encoder.sample"] == ["batch", 3, "height", "width"]


def test_references_are_two_sizes_of_torchs_own_outputs(onnx_folder: Path) -> None:
    with np.load(onnx_folder / "unet" / "reference.npz") as arrays:
        first, second = arrays["0.in.sample"].shape, arrays["1.in.sample"].shape
        assert first != second
        assert second[2] != second[3]
        assert np.isfinite(arrays["0.out.out_sample"]).all()


def test_weights_that_fail_without_a_word_are_named(checkpoint: Path, monkeypatch) -> None:
    def fail(*args):
        raise ValueError

    monkeypatch.setattr("safegen_export.graphs._open", fail)
    with pytest.raises(ExportError, match=r"cannot load the weights of text_encoder \(ValueError\)"):
        next(open_graphs(open_checkpoint(checkpoint), clip_skip=0))


def test_finished_components_are_not_exported_again(checkpoint, onnx_folder, tmp_path, monkeypatch) -> None:
    out = Path(shutil.copytree(onnx_folder, tmp_path / "onnx"))
    shutil.rmtree(out / "vae_encoder")
    done = []

    def fake(graph, folder: Path) -> None:
        done.append(graph.name)
        shutil.copytree(onnx_folder / graph.name, folder, dirs_exist_ok=True)

    monkeypatch.setattr(exporter, "_export_one", fake)
    exporter.export(open_checkpoint(checkpoint), out, clip_skip=0, report=lambda *a: None)
    assert done == ["vae_encoder"]
    done.clear()
    exporter.export(open_checkpoint(checkpoint), out, clip_skip=1, report=lambda *a: None)
    assert done == ["text_encoder"]


def test_half_and_full_precision_copies_have_one_latent_space(checkpoint: Path) -> None:
    vae = load_vae(open_checkpoint(checkpoint))
    identity = latent_space_id(vae)
    assert latent_space_id(vae.half()) == identity
    next(vae.parameters()).data.mul_(1.5)
    assert latent_space_id(vae) != identity


@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json",
     "tokenizer/tokenizer_config.json", "vae/diffusion_pytorch_model.safetensors"],
)  # fmt: skip
def test_the_first_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ExportError, match=name.split("/", maxsplit=1)[0]):
        open_checkpoint(copy)


def test_unknown_families_are_named(copy: Path) -> None:
    edit(copy / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(ExportError, match=r"'KandinskyPipeline'; known families are StableDiffusion"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    "change",
    [{"addition_embed_type": "text_time"}, {"class_embed_type": "timestep"}, {"in_channels": 9}],
)
def test_unets_with_further_inputs_are_refused(copy: Path, change: dict) -> None:
    edit(copy / "unet" / "config.json", **change)
    with pytest.raises(ExportError, match="unet"):
        open_checkpoint(copy)


def test_clip_skip_stays_within_the_encoder(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="0 to 2"):
        next(open_graphs(open_checkpoint(checkpoint), 3))


def test_damaged_weights_are_one_line(copy: Path) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ExportError, match="cannot load the weights of text_encoder"):
        next(open_graphs(open_checkpoint(copy)))


@pytest.mark.parametrize("name", ["dit", "pixart-sigma"])
def test_checkpoints_from_before_the_class_was_split_are_read(onnx_of, tmp_path: Path, name: str) -> None:
    """The published DiT and PixArt weights name their model Transformer2DModel."""
    folder = Path(shutil.copytree(onnx_of(name)[0], tmp_path / "old"))
    kept = onnx_of(name)[1] / "transformer" / "reference.npz"
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit(folder / "transformer" / "config.json", _class_name="Transformer2DModel", num_vector_embeds=None)
    (graph,) = open_graphs(open_checkpoint(folder), 0, ["transformer"])
    with np.load(kept) as arrays, torch.no_grad():
        given = {k[5:]: torch.from_numpy(arrays[k]) for k in arrays if k.startswith("0.in.")}
        np.testing.assert_array_equal(graph.module(**given).numpy(), arrays["0.out.out_sample"])


def test_infinities_of_a_scheduler_stay_out_of_the_manifest(onnx_of) -> None:
    """DPMSolverMultistepScheduler saves one, and JSON has no word for it: the engine would not open."""
    source = open_source(onnx_of("pixart-sigma")[1])
    assert "-Infinity" in (source.folder / "scheduler" / "scheduler_config.json").read_text()
    json.dumps(source.scheduler, allow_nan=False)
    assert source.scheduler["beta_end"] == 0.02
