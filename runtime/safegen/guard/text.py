"""Guards on the text side: they change what the model is told, and know words instead of images.

Each goes alone or with any guard of a bank, which knows images instead of words. Sources: SLD (arXiv
2211.05105), SAFREE (arXiv 2410.12761). A negative prompt is the third of their kind.

SAFREE's notation: E = pooled states of the concept phrases, one a column, P_c = E (E^T E)^+ E^T; p_i = the
pooled state of the prompt with token i masked, P_m the projector onto all p_i. Token i is a trigger where
||(I - P_c) p_i|| exceeds the mean over the other tokens by a margin: without it the prompt is further from
the concept. Its state e_i becomes (I - P_c) P_m e_i. Prompt-sized work, before the loop, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from safegen.device import Array, array_namespace
from safegen.errors import UsageError
from safegen.sampling.conditioning import Conditioning
from safegen.sampling.guidance import Predict, guided
from safegen.sampling.loop import Model, Output
from safegen.sampling.table import Row


class Sld(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="mode", tag="sld"):
    """Safe latent diffusion: a third model evaluation a step, told of the concepts. The default is medium."""

    concepts: tuple[str, ...]
    warmup: int = 10
    """The first so many steps are left alone."""
    scale: float = 1000.0
    """S: how steeply the correction rises with the distance from the concept."""
    threshold: float = 0.01
    """Lambda: elements that are further than this on the safe side are left alone."""
    momentum_scale: float = 0.3
    momentum: float = 0.4
    """b: what share of the momentum is kept."""

    @property
    def text(self) -> str:
        """The concepts as the one prompt that the third evaluation is told."""
        return ", ".join(self.concepts)


class Safree(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="mode", tag="safree"):
    """SAFREE: words near the concepts are projected away from them; no further model evaluation."""

    concepts: tuple[str, ...]
    margin: float = 0.01
    """A word is a trigger where the prompt without it is so much further than usual from the concepts."""
    steepness: float = 2.5
    """k of the self-validating filter: how fast the number of filtered steps rises with the change."""
    centre: float = 5.333
    """t0: ten times the change (1 - cosine) at which half of the ten steps are filtered."""


TextGuard = Sld | Safree
Vectors = NDArray[np.float64]

SLD_PRESETS = {
    "weak": (15, 20.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}
EXTRA_EVALUATIONS = {"negative-prompt": 0, "sld": 1, "safree": 0}
"""Model evaluations a step beside the two of classifier-free guidance."""
FILTERED_STEPS = 10
NAMES = ("safree", *(f"sld:{preset}" for preset in SLD_PRESETS))


def parse_text_guard(text: str, concepts: Sequence[str]) -> TextGuard:
    """``safree``, ``sld`` (medium) or ``sld:max`` and so on, against concepts.

    Raises:
        UsageError: an unknown name, or no concepts.
    """
    mode, _, preset = text.partition(":")
    if not (text == "safree" or (mode == "sld" and (preset or "medium") in SLD_PRESETS)):
        raise UsageError(f"text guard is {text!r}; known are {', '.join(NAMES)}.")
    if not concepts or not all(concept.strip() for concept in concepts):
        raise UsageError(f"the text guard {mode} needs concepts in words, for example 'nudity'.")
    if mode == "safree":
        return Safree(tuple(concepts))
    return Sld(tuple(concepts), *SLD_PRESETS[preset or "medium"])


def check_text_guard(guard: TextGuard, taken: Mapping[str, int], guidance_scale: float) -> None:
    """Refuse a guard that this model, or this request, gives no meaning.

    Args:
        guard: which one is asked for.
        taken: the engine's text guards.
        guidance_scale: SLD works inside guidance.

    Raises:
        UsageError: no text to work on, or no classifier-free guidance for SLD to work in.
    """
    if not taken:
        raise UsageError("text guards work on prompts, and this engine takes none.")
    if isinstance(guard, Sld) and ("sld" not in taken or guidance_scale <= 1.0):
        raise UsageError(
            "the text guard sld works inside classifier-free guidance, which this request does not use;"
            " give a guidance_scale above 1, or take safree."
        )


def eps_factor(row: Row) -> float:
    """The derivative of eps by the output: -alpha x0_out / sigma; 0 at pure noise, of which eps is all."""
    return -row.alpha * row.x0_out / row.sigma


def sld(
    predict: Predict,
    cond: Conditioning,
    uncond: Conditioning,
    unsafe: Conditioning,
    guidance_scale: float,
    settings: Sld,
) -> Model:
    """Classifier-free guidance with SLD's correction; its state is the momentum nu.

    In terms of eps: mu = min(|eps_c - eps_s| S, 1) where eps_c - eps_s < lambda, else 0;
    g = mu (eps_s - eps_u) + s_m nu; nu <- b nu + (1 - b) g; after the warm-up
    eps = eps_u + scale ((eps_c - eps_u) - g). Other outputs than eps are converted, step by step.
    """
    xp = array_namespace(next(iter(cond.values())))
    told = {name: xp.concat([uncond[name], cond[name], unsafe[name]], axis=0) for name in cond}

    def model(x: Array, row: Row, i: int, nu: Array | None) -> Output:
        size = x.shape[0]
        out = predict(xp.concat([x, x, x], axis=0), row.timestep, told)
        out_u, out_c, out_s = (out[k * size : (k + 1) * size, ...] for k in range(3))
        plain = out_u + guidance_scale * (out_c - out_u)
        to_eps = eps_factor(row)
        if to_eps == 0.0:
            return Output(plain, nu)
        ahead = to_eps * (out_c - out_s)
        steep = xp.minimum(xp.abs(ahead) * settings.scale, xp.ones_like(ahead))
        mu = xp.where(ahead >= settings.threshold, xp.zeros_like(ahead), steep)
        nu = xp.zeros_like(ahead) if nu is None else nu
        g = mu * (to_eps * (out_s - out_u)) + settings.momentum_scale * nu
        nu = settings.momentum * nu + (1 - settings.momentum) * g
        if i < settings.warmup:
            return Output(plain, nu)
        return Output(plain - guidance_scale / to_eps * g, nu, plain)

    return model


def switched(
    predict: Predict,
    filtered: Conditioning,
    plain: Conditioning,
    last_steps: NDArray[np.int64],
    uncond: Conditioning | None,
    guidance_scale: float,
) -> Model:
    """Guidance by SAFREE's filtered states up to each sample's last step, (B,), then by the plain ones."""
    xp = array_namespace(next(iter(plain.values())))
    unfiltered = guided(predict, plain, uncond, guidance_scale)

    def told(early: Array, name: str) -> Array:
        wide = xp.reshape(early, (-1,) + (1,) * (plain[name].ndim - 1))
        return xp.where(wide, filtered[name], plain[name])

    def model(x: Array, row: Row, i: int, state: Any) -> Output:
        early = last_steps >= i
        if not early.any():
            return unfiltered(x, row, i, state)
        cond = {name: told(xp.asarray(early), name) for name in plain}
        return guided(predict, cond, uncond, guidance_scale)(x, row, i, state)

    return model


def project_out(vectors: Vectors, basis: Vectors) -> Vectors:
    """(I - P) v for rows v (B, E), P the projector onto the span of the rows of ``basis`` (K, E)."""
    return vectors - project(vectors, basis)


def project(vectors: Vectors, basis: Vectors) -> Vectors:
    """P v: E (E^T E)^+ E^T v, by the pseudo-inverse, so that like phrases may repeat."""
    return vectors @ np.linalg.pinv(basis) @ basis


def triggers(pooled: Vectors, concepts: Vectors, margin: float) -> NDArray[np.bool_]:
    """Which tokens lead to the concepts, (n,), from the pooled states of the masked prompts (n, E)."""
    far = np.linalg.norm(project_out(pooled, concepts), axis=1)
    if len(far) < 2:
        # a prompt of one word has no others to compare with, and nothing else to draw
        return np.ones(len(far), bool)
    others = (far.sum() - far) / (len(far) - 1)
    return np.asarray(far > (1 + margin) * others)


def filtered_steps(change: float, steepness: float, centre: float) -> int:
    """Up to which step, from 0 on, the filtered states serve: round(10 sigmoid(2 k (10 z - t0)))."""
    return round(FILTERED_STEPS / (1 + math.exp(-2 * steepness * (10 * change - centre))))


def filter_prompt(
    states: Vectors, pooled: Vectors, words: Sequence[int], concepts: Vectors, settings: Safree
) -> tuple[Vectors, int]:
    """One prompt's states (L, E), filtered, and the last step that they serve; -1 where nothing changed.

    Args:
        states: of the whole prompt.
        pooled: (n, E) with each of its n words masked in turn.
        words: (n,) where those words are among the L tokens.
        concepts: (K, E).
        settings: the margin and the self-validating filter's two numbers.
    """
    index = np.asarray(words, int)[triggers(pooled, concepts, settings.margin)]
    if not len(index):
        return states, -1
    kept = states.copy()
    kept[index] = project_out(project(states[index], pooled), concepts)
    before, after = states[index], kept[index]
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = float(np.mean((before * after).sum(axis=1) / np.maximum(norms, 1e-12)))
    return kept, filtered_steps(1 - cosine, settings.steepness, settings.centre)
