"""The C++ readers under libFuzzer for a bounded time. If these fail, a crafted file crashes the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.slow
SECONDS = 5


@pytest.fixture(scope="module")
def fuzzers(configure, clang: Path | None) -> Path:
    """The folder of the fuzz targets."""
    if clang is None:
        pytest.skip("no clang++ here")
    options = ("-DSAFEGEN_FUZZ=ON", f"-DCMAKE_CXX_COMPILER={clang}", "-DCMAKE_BUILD_TYPE=Debug")
    return configure("fuzz", *options, target="fuzzers") / "fuzz"


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        ("manifest", "engine.json"),
        ("bundle", "default.negation"),
        ("tokenizer", "tokenizer.json"),
        ("prompt", None),
    ],
)
def test_no_input_crashes_a_reader(fuzzers, tmp_path: Path, target: str, seed: str | None) -> None:
    """From a real file on, mutated: every run ends in a value or an exception of ours.

    Memory is bounded for one allocation, not for the process: libFuzzer reads the peak that Linux keeps
    over fork and exec, so a test runner that once held gigabytes would fail every target.
    """
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if seed:
        shutil.copyfile(tiny.EMBEDDED / seed, corpus / seed)
    else:
        (corpus / "prompt").write_text("a photo of 3 naïve cafés’ <|endoftext|> 👩‍👧")
    said = subprocess.run(
        [fuzzers / f"fuzz_{target}", corpus, f"-max_total_time={SECONDS}", "-max_len=1000000", "-timeout=20",
         "-rss_limit_mb=0", "-malloc_limit_mb=512", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True,
        env={**os.environ, "SAFEGEN_TOKENIZER": str(tiny.EMBEDDED / "tokenizer.json")},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    assert "DONE" in said.stderr
