"""Prompt files as published. If these fail, a team's attack set is drawn with other seeds, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.errors import UsageError
from safegen_eval.prompt_set import Prompt, read_prompts
from safegen_eval.suite import PromptSet

FILES = {
    "I2P": (
        "prompt,categories,hard,sd_seed,sd_guidance_scale\n\"a, b\",violence,0,4219682909,7.5\n",
        Prompt("a, b", 4219682909, 7.5, None),
    ),
    "UnlearnDiffAtk": (
        "\ufeff,case_number,prompt,evaluation_seed,evaluation_guidance\n0,12,x,1984,7\n",
        Prompt("x", 1984, 7.0, None),
    ),
    "MMA-Diffusion": ("target_prompt,adv_prompt\nt,a q z\n", Prompt("a q z", 40, None, None)),
    "Ring-A-Bell": ("sensitive prompt\ngibberish\n", Prompt("gibberish", 40, None, None)),
    "CoPro": ("concept,safe_prompt,unsafe_prompt\nc,s,u\n", Prompt("u", 40, None, None)),
    "COCO": (
        "case_number,source,prompt,evaluation_seed,coco_id\n0,coco,a dog,5,139\n",
        Prompt("a dog", 5, None, None),
    ),
    "ours": ("prompt,seed,label\na bag,7,8\n", Prompt("a bag", 7, None, 8)),
    "classes": ("class_label,seed,label\n3,1,3\n", Prompt(3, 1, None, 3)),
}  # fmt: skip


def chosen(path: Path | None, **more) -> PromptSet:
    return PromptSet(name="s", kind="attack", prompts=None if path is None else str(path), seed=40, **more)


@pytest.mark.parametrize("name", FILES)
def test_published_columns_are_found(name: str, tmp_path: Path) -> None:
    text, expected = FILES[name]
    (tmp_path / "p.csv").write_text(text, "utf-8")
    assert read_prompts(chosen(tmp_path / "p.csv")) == [expected]


def test_a_set_of_nothing_has_one_seed_a_picture() -> None:
    assert read_prompts(chosen(None, count=2)) == [Prompt(None, 40, None, None), Prompt(None, 41, None, None)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("prompt,seed\na,1\nb,x\n", "line 3"),
        ("prompt,seed\na,-1\n", "2^64"),
        ("prompt,seed\na,18446744073709551616\n", "2^64"),
        ('prompt\n"a\nb\nc\n', "not a CSV file of prompts"),
        ("prompt,seed\na,1.5\n", "line 2: '1.5' is not a whole number"),
        ("prompt,label\na,nan\n", "line 2: 'nan' is not a finite number"),
        ("prompt,guidance\na,inf\n", "line 2: 'inf' is not a finite number"),
        ('prompt,seed\n"a\nb",1\nc,x\n', "line 4"),
        ("prompt,seed\na,1\n,2\n", "line 3: nothing to draw; the column 'prompt' is empty"),
        ("seed,class_label\n1,3\n2,\n", "line 3: nothing to draw; the column 'class_label' is empty"),
        ("words\na\n", "name it with 'column'"),
        ("", "no column"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UsageError, match=word.replace("^", r"\^")):
        read_prompts(chosen(tmp_path / "p.csv"))


@pytest.mark.parametrize(
    ("cell", "seed"), [("9007199254740993", 2**53 + 1), ("18446744073709551615", 2**64 - 1), ("7.0", 7)]
)
def test_seeds_are_read_to_the_last_digit(cell: str, seed: int, tmp_path: Path) -> None:
    """As a float the largest seeds become others; spreadsheets write small ones as floats."""
    (tmp_path / "p.csv").write_text(f"prompt,seed\na,{cell}\n")
    assert read_prompts(chosen(tmp_path / "p.csv"))[0].seed == seed


def test_any_column_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("words,prompt\na,b\n")
    assert read_prompts(chosen(tmp_path / "p.csv", column="words"))[0].subject == "a"


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(str.strip), min_size=1, max_size=5
    )
)
def test_any_text_comes_back(texts: list[str]) -> None:
    """Quotes, commas, emoji: a prompt that is changed on the way attacks something else."""
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["prompt"], *([t] for t in texts)])
        assert [p.subject for p in read_prompts(chosen(path))] == texts
