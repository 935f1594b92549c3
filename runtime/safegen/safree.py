"""SAFREE (arXiv 2410.12761): the words of a prompt that lead to a concept, projected away from it.

Notation: E = pooled states of the concept phrases, one a column, P_c = E (E^T E)^+ E^T; p_i = the pooled
state of the prompt with token i masked, P_m the projector onto all p_i. Token i is a trigger where
||(I - P_c) p_i|| exceeds the mean over the other tokens by a margin: without it the prompt is further from
the concept. Its state e_i becomes (I - P_c) P_m e_i. Prompt-sized work, before the loop, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from safegen import tokenizer
from safegen.device import to_host
from safegen.text_guard import Safree

if TYPE_CHECKING:
    from safegen.engine import Engine

Vectors = NDArray[np.float64]
Encode = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Ids (B, L) to states (B, L, E)."""
FILTERED_STEPS = 10
MASK = 0
"""CLIP's ``!`` and T5's padding, with which a token is masked."""


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


def filter_prompts(
    encode: Encode, tokens: Tokenizer, prompts: Sequence[str], states: Vectors, settings: Safree, chunks: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One text encoder's states (B, chunks L, E), filtered, and each prompt's last filtered step, (B,)."""
    phrases = tokenizer.encode(tokens, settings.concepts)[:, 0]
    ends = [tokenizer.spans(tokens, concept)[0].end for concept in settings.concepts]
    concepts = encode(phrases)[np.arange(len(ends)), ends].astype(np.float64)
    found, last = states.copy(), np.full(len(prompts), -1)
    for i, windows in enumerate(tokenizer.encode(tokens, prompts, chunks)):
        parts = found[i].reshape(chunks, -1, states.shape[-1])
        for k, (words, end) in enumerate(tokenizer.spans(tokens, prompts[i])[:chunks]):
            if not words:
                continue
            masked = np.repeat(windows[k][None], len(words), axis=0)
            masked[np.arange(len(words)), words] = MASK
            pooled = encode(masked)[:, end].astype(np.float64)
            parts[k], until = filter_prompt(parts[k], pooled, words, concepts, settings)
            last[i] = max(last[i], until)
    return found.astype(np.float32), last


def filtered_conditioning(
    engine: Engine, prompts: Sequence[str], settings: Safree, chunks: int
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The model's text inputs, filtered, and each prompt's last filtered step, (B,).

    States of every text encoder are filtered; what an encoder pools beside them is left as it is.
    """
    outputs = engine.text_states(prompts, chunks)
    last = np.full(len(prompts), -1)
    for name, tokens in engine.tokenizers.items():
        windows = chunks if engine.manifest.tokenizers[name].chunked else 1
        for output in (o for o in engine.session(name).outputs if outputs[f"{name}.{o}"].ndim == 3):

            def encode(ids: NDArray[np.int64], name: str = name, output: str = output) -> NDArray[Any]:
                return to_host(engine.run(name, input_ids=ids)[output])

            key = f"{name}.{output}"
            states = to_host(outputs[key]).astype(np.float64)
            found, until = filter_prompts(encode, tokens, prompts, states, settings, windows)
            outputs[key] = engine.device.xp.asarray(found)
            last = np.maximum(last, until)
    return engine.join_text(outputs), last
