"""A prompt's states, filtered by SAFREE through the engine's own encoders; which guards a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from safegen.device import to_host
from safegen.format import tokenizer
from safegen.format.manifest import Conditioning
from safegen.guard.text import EXTRA_EVALUATIONS, Safree, Vectors, filter_prompt

if TYPE_CHECKING:
    from safegen.engine.engine import Engine

Encode = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Ids (B, L) to states (B, L, E)."""
MASK = 0
"""CLIP's ``!`` and T5's padding, with which a token is masked."""


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


def text_guards_of(conditioning: Conditioning) -> dict[str, int]:
    """Which of :data:`EXTRA_EVALUATIONS` a model takes."""
    if not conditioning.text:
        return {}
    guided_by_text = conditioning.guidance == "classifier-free"
    return {name: extra for name, extra in EXTRA_EVALUATIONS.items() if guided_by_text or name == "safree"}
