"""Token ids. If these fail, the model is told something else than the user wrote."""

from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from safegen.engine.engine import Engine
from safegen.errors import EngineError
from safegen.format.tokenizer import encode, open_tokenizer, read_clip_tables

PROMPTS = [
    "a photo of a sneaker",
    "",
    "  A  Coat\n",
    "naïve Überschuh 1234 😀 don't",
    "bag " * 60,
    "<|endoftext|> x",
]


@pytest.mark.slow
def test_ids_equal_those_of_transformers() -> None:
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(tiny.EMBEDDED_CHECKPOINT / "tokenizer")
    ours = open_tokenizer(tiny.EMBEDDED / "tokenizer.json", 24, "<|endoftext|>")

    @given(st.text(max_size=80))
    def check(prompt: str) -> None:
        expected = theirs(prompt, padding="max_length", max_length=24, truncation=True)["input_ids"]
        assert encode(ours, [prompt])[0, 0].tolist() == expected

    check()
    for prompt in PROMPTS:
        expected = theirs(prompt, padding="max_length", max_length=24, truncation=True)["input_ids"]
        assert encode(ours, [prompt])[0, 0].tolist() == expected


def test_the_two_tables_and_the_json_file_agree() -> None:
    from_tables = read_clip_tables(tiny.EMBEDDED_CHECKPOINT / "tokenizer")
    ours = open_tokenizer(tiny.EMBEDDED / "tokenizer.json", 24, "<|endoftext|>")
    for prompt in PROMPTS:
        expected = from_tables.encode(prompt).ids[:24]
        assert encode(ours, [prompt])[0, 0].tolist()[: len(expected) - 1] == expected[:-1]


def test_a_tokenizer_without_its_padding_token_is_refused(embedded: Path) -> None:
    with pytest.raises(EngineError, match="padding token"):
        open_tokenizer(embedded / "tokenizer.json", 24, "[PAD]")


def test_long_prompts_are_cut_and_all_are_padded(embedded: Path) -> None:
    engine = Engine.open(embedded)
    assert engine.encode_prompts(PROMPTS)["encoder_hidden_states"].shape == (len(PROMPTS), 24, 128)
