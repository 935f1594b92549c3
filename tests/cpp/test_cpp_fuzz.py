"""The C++ readers under libFuzzer for a bounded time. If these fail, a crafted file crashes the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import tiny
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from safegen.format.bundle import read_bundle, write_bundle
from safegen.guard.settings import Official, Paper, Ratio, Theorem

pytestmark = pytest.mark.slow
SECONDS = 5


@pytest.fixture(scope="module")
def fuzzers(configure, clang: Path | None) -> Path:
    """The folder of the fuzz targets."""
    if clang is None:
        pytest.skip("no clang++ here")
    options = ("-DSAFEGEN_FUZZ=ON", f"-DCMAKE_CXX_COMPILER={clang}", "-DCMAKE_BUILD_TYPE=Debug")
    return configure("fuzz", *options, target="fuzzers") / "fuzz"


def bundles(corpus: Path) -> None:
    """Four images a bank: ten times as many runs as from a whole one."""
    frozen = read_bundle(tiny.EMBEDDED / "default.negation")
    banks = {"negation": frozen.negation[:4], "benign": frozen.benign[:4], "axes": frozen.axes}
    for guard in (Ratio(), Paper(), Official(first_steps=12), Official(gate=False, sd3=True), Theorem()):
        info = msgspec.structs.replace(
            frozen.info, negation_count=4, benign_count=4, target_count=4, guard=guard
        )
        path = corpus / f"{guard.mode}-{len(list(corpus.iterdir()))}.negation"
        write_bundle(path, info, **banks, gate=frozen.gate, density=frozen.density)


def unigram(corpus: Path) -> None:
    """As T5's, of a few pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -2.5), ("▁photo", -3.5), ("o", -4.0)]
    tokens = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokens.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokens.save(str(corpus / "unigram.json"))


def embedded(name: str) -> Callable[[Path], object]:
    return lambda corpus: shutil.copy(tiny.EMBEDDED / name, corpus)


def prompt(corpus: Path) -> None:
    (corpus / "prompt").write_text("a photo of 3 naïve cafés’ <|endoftext|> 👩‍👧")


@pytest.mark.parametrize(
    ("target", "write_seeds"),
    [
        pytest.param("manifest", embedded("engine.json"), id="manifest"),
        pytest.param("bundle", bundles, id="bundle"),
        pytest.param("tokenizer", embedded("tokenizer.json"), id="tokenizer-bpe"),
        pytest.param("tokenizer", unigram, id="tokenizer-unigram"),
        pytest.param("prompt", prompt, id="prompt"),
    ],
)
def test_no_input_crashes_a_reader(
    fuzzers, tmp_path: Path, target: str, write_seeds: Callable[[Path], object]
) -> None:
    """From real files on, mutated: every run ends in a value or an exception of ours.

    Memory is bounded for one allocation, not for the process: libFuzzer reads the peak that Linux keeps
    over fork and exec, so a test runner that once held gigabytes would fail every target.
    """
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_seeds(corpus)
    said = subprocess.run(
        [fuzzers / f"fuzz_{target}", corpus, f"-max_total_time={SECONDS}", "-max_len=1000000", "-timeout=20",
         "-rss_limit_mb=0", "-malloc_limit_mb=512", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True,
        env={**os.environ, "SAFEGEN_TOKENIZER": str(tiny.EMBEDDED / "tokenizer.json")},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    assert "DONE" in said.stderr
