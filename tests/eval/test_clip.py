"""CLIP scores against transformers. If this fails, a guard that ruins pictures looks as if it did not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from safegen.errors import UsageError
from safegen_eval.quality import Clip

pytestmark = pytest.mark.slow


class _Exported(torch.nn.Module):
    """The outputs that optimum's export has, and that are read here."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, pixel_values, attention_mask):
        found = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return found.text_embeds, found.image_embeds


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel, CLIPTokenizer]:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(tiny.EMBEDDED_CHECKPOINT / "tokenizer")
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 24, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size=32).save_pretrained(folder)
    words = ["a grey bag", "a coat on a black background"]
    ids = tokenizer(words, padding="max_length", max_length=24, return_tensors="pt").input_ids
    torch.onnx.export(
        _Exported(model), (ids, torch.rand(2, 3, 32, 32), torch.ones_like(ids)), folder / "model.onnx",
        input_names=["input_ids", "pixel_values", "attention_mask"],
        output_names=["text_embeds", "image_embeds"],
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in range(3)), dynamo=True,
    )  # fmt: skip
    return folder, model, tokenizer


def test_scores_are_those_of_transformers(clip) -> None:
    folder, model, tokenizer = clip
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
    ids = tokenizer(["a grey bag"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    pixels = CLIPImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
    cosine = torch.cosine_similarity(found.text_embeds, found.image_embeds).item()
    ours = Clip(folder)
    # float32 through two small transformers, times 100
    assert ours.score(image, "a grey bag") == pytest.approx(100 * max(0.0, cosine), abs=1e-3)
    features = found.image_embeds / found.image_embeds.norm()
    np.testing.assert_allclose(ours.features([image])[0], features[0].numpy(), atol=1e-5)


def test_a_folder_that_is_no_clip_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UsageError, match=r"no model\.onnx"):
        Clip(tmp_path)
