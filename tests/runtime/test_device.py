"""Where arrays live and what stands in. If these fail, a GPU runs other arithmetic than was tested."""

import array_api_strict
import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.device import Device, to_host
from safegen.engine.engine import MODELS, Engine
from safegen.format.bundle import read_bundle

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


def test_host_copies_are_numpy() -> None:
    assert isinstance(to_host(array_api_strict.ones(3)), np.ndarray)
