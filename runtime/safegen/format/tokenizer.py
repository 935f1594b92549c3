"""Prompts to token ids, through the `tokenizers` library and a plain ``tokenizer.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from safegen.errors import EngineError

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokenizer(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Build CLIP's tokenizer from the two tables of ``vocab.json`` and ``merges.txt``."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=list(merges),
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocab[END]), (START, vocab[START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def read_clip_tables(folder: Path) -> Tokenizer:
    """Build CLIP's tokenizer from a folder with ``vocab.json`` and ``merges.txt``."""
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    return clip_tokenizer(vocab, merges)  # type: ignore[arg-type]


def open_tokenizer(path: Path, max_length: int, pad_token: str) -> Tokenizer:
    """Read ``tokenizer.json`` and set it to pad and cut to ``max_length`` ids.

    Raises:
        EngineError: the file is no tokenizer, or lacks the padding token.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise EngineError(f"{path}: not a tokenizer ({error}).") from None
    pad_id = tokenizer.token_to_id(pad_token)
    if pad_id is None:
        raise EngineError(f"{path}: the padding token {pad_token!r} is not in the vocabulary.")
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length, pad_id=pad_id, pad_token=pad_token)
    return tokenizer


def encode(tokenizer: Tokenizer, prompts: Sequence[str], chunks: int = 1) -> NDArray[np.int64]:
    """Token ids of prompts, (B, chunks, max_length).

    A prompt longer than one window goes on in the next, each with its own start and end; what passes
    the last is cut, and prompts that end earlier are filled up with the empty prompt.
    """
    empty = tokenizer.encode("").ids
    rows = []
    for encoding in tokenizer.encode_batch(list(prompts)):
        ids = [encoding.ids, *(more.ids for more in encoding.overflowing)][:chunks]
        rows.append(ids + [empty] * (chunks - len(ids)))
    return np.array(rows, np.int64)


class Span(NamedTuple):
    """Where the words of one window are."""

    words: list[int]
    """Positions of tokens that are neither start, end nor padding."""
    end: int
    """Position of the end token, whose state speaks for the window."""


def spans(tokenizer: Tokenizer, prompt: str) -> list[Span]:
    """One span for each window that a prompt fills."""
    first = tokenizer.encode(prompt)
    found = []
    for window in (first, *first.overflowing):
        end = sum(window.attention_mask) - 1
        found.append(Span([at for at in range(end) if not window.special_tokens_mask[at]], end))
    return found


def count_chunks(tokenizer: Tokenizer, prompt: str) -> int:
    """How many windows a prompt fills."""
    return 1 + len(tokenizer.encode(prompt).overflowing)
