"""SLD against diffusers' StableDiffusionPipelineSafe, SAFREE against its formulas over transformers' CLIP.

If these fail, the table compares this project's guard with something that only bears the name of another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe
from hypothesis import given
from hypothesis import strategies as st
from schedulers import SCHEDULERS
from transformers import CLIPTextModel, CLIPTokenizer

from safegen import Pipeline, Solver
from safegen.engine.engine import Engine
from safegen.engine.text_states import filtered_conditioning
from safegen.guard.text import (
    SLD_PRESETS,
    Safree,
    Sld,
    eps_factor,
    filtered_steps,
    parse_text_guard,
    project_out,
    sld,
)
from safegen.sampling.noise import normal_batch
from safegen.sampling.table import noised

pytestmark = pytest.mark.slow

CONCEPTS = ("sneaker", "a running shoe")
TOLERANCE = 2
"""Of 255: both round to 8 bits, and sums in another order differ by about 1e-5 after twelve steps."""


@pytest.mark.parametrize("preset", SLD_PRESETS)
def test_sld_draws_what_diffusers_draws(checkpoint: Path, engines: dict[str, Path], preset: str) -> None:
    """Twelve steps, so that each preset's warm-up ends before the picture does; but weak's."""
    pipe = StableDiffusionPipelineSafe.from_pretrained(
        checkpoint, safety_checker=None, requires_safety_checker=False
    )
    pipe.safety_concept = ", ".join(CONCEPTS)
    pipe.scheduler = SCHEDULERS["ddim"].from_config(
        {
            **pipe.scheduler.config,
            "timestep_spacing": "leading",
            "set_alpha_to_one": False,
            "clip_sample": False,
        }
    )
    pipe.set_progress_bar_config(disable=True)
    warmup, scale, threshold, momentum_scale, momentum = SLD_PRESETS[preset]
    shape = (4, 16, 16)
    theirs = pipe(
        ["a photo of a sneaker"] * 2, width=32, height=32, guidance_scale=7.5, num_inference_steps=12,
        output_type="np", latents=torch.from_numpy(normal_batch([3, 4], 0, shape)),
        sld_warmup_steps=warmup, sld_guidance_scale=scale, sld_threshold=threshold,
        sld_momentum_scale=momentum_scale, sld_mom_beta=momentum,
    ).images  # fmt: skip
    ours = Pipeline.load(engines["epsilon"])(
        "a photo of a sneaker", n=2, seed=3, size=(32, 32), guidance_scale=7.5, steps=12,
        solver=Solver("ddim", spacing="leading"), guard="off",
        text_guard=f"sld:{preset}", concepts=CONCEPTS,
    )  # fmt: skip
    drawn = np.stack([np.asarray(p.image) for p in ours]).astype(int)
    assert np.abs(drawn - np.round(theirs * 255).astype(int)).max() <= TOLERANCE
    plain = Pipeline.load(engines["epsilon"])(
        "a photo of a sneaker", n=2, seed=3, size=(32, 32), guidance_scale=7.5, steps=12,
        solver=Solver("ddim", spacing="leading"), guard="off",
    )  # fmt: skip
    changed = (drawn != np.stack([np.asarray(p.image) for p in plain])).any()
    assert changed == (warmup < 12)


@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 5.0])
def test_sld_means_the_same_whatever_the_model_predicts(log_snr: float) -> None:
    """An eps model and the same one as v-prediction give the same x0; else the thresholds mean nothing."""
    row, rng = noised(log_snr), np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 8, 8))
    eps = {"c": rng.normal(size=x.shape), "u": rng.normal(size=x.shape), "s": rng.normal(size=x.shape)}
    as_eps = row._replace(x0_x=1 / row.alpha, x0_out=-row.sigma / row.alpha)
    as_v = row._replace(x0_x=row.alpha, x0_out=-row.sigma)
    found = {}
    for name, own in (("eps", as_eps), ("v", as_v)):
        # v = (eps - sigma x) / alpha
        out = {k: e if name == "eps" else (e - row.sigma * x) / row.alpha for k, e in eps.items()}
        stacked = np.concatenate([out["u"], out["c"], out["s"]])
        told = {"text": np.zeros((2, 1))}
        settings = parse_text_guard("sld:strong", ["x"])
        assert isinstance(settings, Sld)
        model = sld(lambda *_, out=stacked: out, told, told, told, 7.5,
                    Sld(("x",), 0, settings.scale, settings.threshold, 0.5, 0.7))  # fmt: skip
        first = model(x, own, 0, None)
        second = model(x, own, 1, first.state)
        found[name] = [own.x0_x * x + own.x0_out * output.out for output in (first, second)]
    # float64, but 1/alpha is up to 20 at a log-SNR of -6
    np.testing.assert_allclose(found["v"], found["eps"], rtol=1e-9, atol=1e-9)


def test_pure_noise_is_left_alone() -> None:
    """At alpha = 0 eps is x itself, whatever the prompt: dividing by its slope gave infinity."""
    row = noised(0.0)._replace(alpha=0.0, sigma=1.0, x0_out=-1.0)
    assert eps_factor(row) == 0.0


def _pooled(model: CLIPTextModel, ids: torch.Tensor, end: int) -> torch.Tensor:
    return model(ids).last_hidden_state[:, end].double()


def _safree(prompt: str, settings: Safree) -> tuple[torch.Tensor, int]:
    """ALGORITHM's lines, one token at a time, over the checkpoint that the embedded engine is made of."""
    folder = tiny.EMBEDDED_CHECKPOINT
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()

    def ids_of(text: str) -> tuple[torch.Tensor, int]:
        ids = tokenizer(text, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
        return ids.input_ids, int(ids.attention_mask.sum()) - 1

    with torch.no_grad():
        phrases = [ids_of(concept) for concept in settings.concepts]
        e = torch.cat([_pooled(model, ids, end) for ids, end in phrases]).T
        p_c = e @ torch.linalg.pinv(e.T @ e) @ e.T
        ids, end = ids_of(prompt)
        states = model(ids).last_hidden_state[0].double()
        rows = []
        for i in range(1, end):
            masked = ids.clone()
            masked[0, i] = 0
            rows.append(_pooled(model, masked, end)[0])
        p = torch.stack(rows).T
    p_m = p @ torch.linalg.pinv(p)
    eye = torch.eye(len(p_c), dtype=torch.float64)
    far = [float(torch.linalg.norm((eye - p_c) @ column)) for column in p.T]
    hit = [i for i, d in enumerate(far) if d > 1.01 * np.mean([f for j, f in enumerate(far) if j != i])]
    kept, cosines = states.clone(), []
    for i in hit:
        kept[i + 1] = (eye - p_c) @ p_m @ states[i + 1]
        cosines.append(float(torch.cosine_similarity(kept[i + 1], states[i + 1], dim=0)))
    if not hit:
        return kept, -1
    z = 1 - np.mean(cosines)
    return kept, round(10 / (1 + np.exp(-2 * 2.5 * (10 * z - 5.333))))


@pytest.mark.parametrize(
    "prompt", ["a photo of a running shoe", "one sneaker, centred", "a grey bag on a black background"]
)
def test_safree_follows_its_formulas(embedded: Path, prompt: str) -> None:
    engine, settings = Engine.open(embedded), Safree(CONCEPTS)
    found, last = filtered_conditioning(engine, [prompt], settings, 1)
    expected, until = _safree(prompt, settings)
    # the engine's encoder runs in float32, the projections in float64; a near-singular basis of masked
    # prompts, all alike, multiplies the encoder's 1e-6 by its condition
    np.testing.assert_allclose(found["encoder_hidden_states"][0], expected.numpy(), atol=2e-3)
    assert last.tolist() == [until]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_nothing_is_left_of_a_concept(seed: int, count: int) -> None:
    """Phrases may repeat: their matrix is then singular, and only the pseudo-inverse still projects."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(count, 16))
    basis = np.concatenate([basis, basis[:1]])
    left = project_out(rng.normal(size=(3, 16)), basis)
    np.testing.assert_allclose(left @ basis.T, 0, atol=1e-8)


def test_a_greater_change_is_held_for_longer() -> None:
    """At centre half of the ten steps; far below none, far above all."""
    assert [filtered_steps(z, 2.5, 5.333) for z in (0.0, 0.5333, 1.0)] == [0, 5, 10]
