"""The C++ host beside Python. If these fail, a product draws other pictures, or unguarded ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from cpp_host import ROOT, draw, run
from PIL import Image

from safegen import Pipeline, Verdict
from safegen.errors import SafegenError, UsageError
from safegen.format.bundle import BANKS, write_bundle
from safegen.guard.settings import OFFICIAL_PRESETS, RIVALS, SIGNABLE, Ratio

pytestmark = pytest.mark.slow


def test_its_own_tests_pass_under_the_sanitizers(sanitized: Path) -> None:
    """Readers, refusals, threads, cancelling, and the C interface from plain C."""
    said = run("ctest", "--test-dir", sanitized, "--output-on-failure")
    assert "100% tests passed" in said.stdout


ASKED = {
    "fashion": ({"prompt": "a photo of a sneaker"}, ("-p", "a photo of a sneaker")),
    "pixels": ({"class_label": 7}, ("-c", 7)),
}


def counts_of(record: dict[str, Any]) -> tuple[int, ...]:
    return record["opened"], record["corrected"]


def counts_of_verdict(verdict: Verdict) -> tuple[int, ...]:
    return verdict.opened, verdict.corrected


PRESETS = [f"official:{preset}" for preset in OFFICIAL_PRESETS if preset != "sd3-nudity"]


@pytest.mark.parametrize("guard", [*SIGNABLE, "off", *PRESETS])
@pytest.mark.parametrize("name", ASKED)
def test_the_same_picture_with_every_guard(sanitized: Path, tmp_path: Path, name: str, guard: str) -> None:
    """Within a shade of Python's, though sums run in another order here."""
    pipeline, (asked, options) = Pipeline.load(name), ASKED[name]
    for seed in (3, 4):
        theirs = pipeline(**asked, seed=seed, steps=8, guard=guard)[0]
        ours, record = draw(sanitized, tiny.EMBEDDED.parent / name, tmp_path / "x.png", *options,
                            "--seed", seed, "--steps", 8, "--guard", guard)  # fmt: skip
        assert np.abs(ours - np.asarray(theirs.image)).max() <= 1
        assert counts_of(record) == counts_of_verdict(theirs.verdict)
        if theirs.verdict.strongest_evidence is not None:
            assert record["strongest_evidence"] == pytest.approx(theirs.verdict.strongest_evidence, rel=0.02)
            assert {"file", *theirs.verdict.summary()} == set(record)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"prompt": "a coat", "negative_prompt": "a bag"}, ("-p", "a coat", "--negative", "a bag")),
        ({"prompt": "a coat", "guidance_scale": 1.0}, ("-p", "a coat", "--guidance", 1)),
        ({"prompt": ""}, ("-p", "")),
        ({"prompt": "naïve “COAT” 12 " * 20}, ("-p", "naïve “COAT” 12 " * 20)),
    ],
)
def test_the_same_picture_however_it_is_asked_for(sanitized: Path, tmp_path: Path, asked, options) -> None:
    """Every default, the negative prompt, no guidance, no words and too many; the largest seed."""
    seed = 2**64 - 1
    theirs = Pipeline.load()(**asked, seed=seed, steps=8)[0]
    ours, _ = draw(sanitized, tiny.EMBEDDED, tmp_path / "x.png", *options, "--seed", seed, "--steps", 8)
    assert np.abs(ours - np.asarray(theirs.image)).max() <= 1


def test_the_same_picture_of_few_steps(sanitized: Path, tmp_path: Path) -> None:
    for prompt, seed in (("a photo of an ankle boot", 11), ("a photo of a sneaker", 3)):
        theirs = Pipeline.load()(prompt, seed=seed, steps=4)[0]
        ours, record = draw(sanitized, tiny.EMBEDDED, tmp_path / "x.png", "-p", prompt, "--seed", seed,
                            "--steps", 4)  # fmt: skip
        assert np.abs(ours - np.asarray(theirs.image)).max() <= 1
        assert counts_of(record) == counts_of_verdict(theirs.verdict)
    assert record["corrected"] > 0


def test_the_same_pictures_in_batches(sanitized: Path, tmp_path: Path) -> None:
    """Each of its own seed, in files of its own; the last batch is smaller."""
    theirs = Pipeline.load()("a photo of a sneaker", seed=3, steps=4, n=5, batch_size=2)
    options = ("--seed", 3, "--steps", 4, "-n", 5, "--batch-size", 2, "-o", tmp_path / "x.png")
    run(sanitized / "safegen-generate", tiny.EMBEDDED, "-p", "a photo of a sneaker", *options)
    assert len(list(tmp_path.iterdir())) == 5
    for i, picture in enumerate(theirs):
        ours = np.asarray(Image.open(tmp_path / f"x-{i}.png").convert("RGB")).astype(int)
        assert np.abs(ours - np.asarray(picture.image)).max() <= 1


def test_ctrl_c_loses_no_picture_that_was_finished(sanitized: Path, tmp_path: Path) -> None:
    """A long series is stopped at the next step; what is on disk is whole."""
    command = [sanitized / "safegen-generate", tiny.EMBEDDED, "-p", "x", "--steps", 20, "-n", 10_000,
               "--batch-size", 1, "-o", tmp_path / "x.png"]  # fmt: skip
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first picture's
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=60)
    written = sorted(tmp_path.iterdir())
    assert process.returncode == 130
    assert wrong == f"stopped; {len(written)} of 10000 pictures are written.\n"
    assert 1 + said.count(".png") == len(written) < 10_000
    assert all(Image.open(path).convert("RGB").size == (32, 32) for path in written)


@pytest.mark.parametrize(("option", "value"), [("--solver", "euler"), ("--size", "64x32"), ("--size", 64)])
def test_what_python_alone_draws_is_refused(sanitized: Path, option: str, value: object) -> None:
    """One line that names the field and the way out, before anything is drawn."""
    command = [sanitized / "safegen-generate", tiny.EMBEDDED, "-p", "x", option, value]
    said = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert said.returncode == 2
    assert re.fullmatch(rf"error: {option[2:]} is .*Use the Python package for another\.\n", said.stderr)


def test_a_guard_named_alone_has_the_bundles_settings(sanitized: Path, tmp_path: Path) -> None:
    """Else a product that names the guard draws with other numbers than the bundle was signed with."""
    frozen = Pipeline.load().bundle
    info = msgspec.structs.replace(frozen.info, guard=Ratio(repulsion=4.0))
    signed = tmp_path / "x.negation"
    banks = {name: getattr(frozen, name) for name in BANKS}
    write_bundle(signed, info, **banks, gate=frozen.gate, density=frozen.density)
    theirs = Pipeline.load("fashion", signed)("a sneaker", seed=3, steps=4)[0]
    plain = Pipeline.load()("a sneaker", seed=3, steps=4)[0]
    ours, _ = draw(sanitized, tiny.EMBEDDED, tmp_path / "x.png", "-p", "a sneaker", "-b", signed,
                   "--seed", 3, "--steps", 4, "--guard", "ratio")  # fmt: skip
    assert np.abs(ours - np.asarray(theirs.image)).max() <= 1
    assert np.abs(ours - np.asarray(plain.image)).max() > 1


@pytest.mark.parametrize(("sides", "anywhere"), [(2, False), (4, False), (2, True), (4, True)])
def test_the_same_picture_by_regions(sanitized: Path, tmp_path: Path, sides: int, anywhere: bool) -> None:
    signed = tiny.write_regions(tmp_path / "x.negation", sides, anywhere=anywhere)
    pipeline = Pipeline.load("fashion", signed)
    for seed, steps in ((3, 8), (4, 8), (3, 4)):
        asked = {"seed": seed, "steps": steps, "n": 2}
        theirs = pipeline("a photo of a coat", **asked)
        free = pipeline("a photo of a coat", **asked, guard="off")
        options = ("-p", "a photo of a coat", "-b", signed, "--seed", seed, "--steps", steps)
        ours, record = draw(sanitized, tiny.EMBEDDED, tmp_path / "x.png", *options)
        assert np.abs(ours - np.asarray(theirs[0].image)).max() <= 1
        assert np.abs(ours - np.asarray(free[0].image)).max() > 1
        verdict = theirs[0].verdict
        assert counts_of(record) == counts_of_verdict(verdict)
        assert record["nearest_reference"] == verdict.nearest_reference
        assert record["corrected"] > 0
        assert verdict.nearest_reference < pipeline.bundle.info.negation_count


def test_without_a_label_a_class_model_draws_of_no_class(sanitized: Path, tmp_path: Path) -> None:
    theirs = Pipeline.load("pixels")(seed=5)[0]
    ours, _ = draw(sanitized, tiny.EMBEDDED.parent / "pixels", tmp_path / "x.png", "--seed", 5)
    assert np.abs(ours - np.asarray(theirs.image)).max() <= 1


def refused(call) -> tuple[int, str]:
    """What Python says of a request, and the exit code that its CLI gives it."""
    with pytest.raises(SafegenError) as caught:
        call()
    return 2 if isinstance(caught.value, UsageError) else 1, f"error: {caught.value}\n"


def test_errors_are_those_of_python(sanitized: Path, tmp_path: Path) -> None:
    """Word for word, one line each, and the same exit codes."""
    fashion, pixels = Pipeline.load("fashion"), Pipeline.load("pixels")
    text, classes = tiny.EMBEDDED, tiny.EMBEDDED.parent / "pixels"
    foreign, missing = classes / "default.negation", tmp_path / "no.negation"
    quarters = tiny.write_regions(tmp_path / "quarters.negation", 2)
    cases = [
        (lambda: Pipeline.load(tmp_path), (tmp_path, "-p", "x")),
        (lambda: Pipeline.load("fashion", foreign),
         (text, "-p", "x", "-b", foreign)),
        (lambda: Pipeline.load("fashion", missing),
         (text, "-p", "x", "-b", missing)),
        (lambda: Pipeline.load("fashion", quarters)("x", guard="paper"),
         (text, "-p", "x", "-b", quarters, "--guard", "paper")),
        (lambda: fashion("x", guard="official:sd3-nudity"),
         (text, "-p", "x", "--guard", "official:sd3-nudity")),
        (lambda: fashion(None), (text,)),
        (lambda: fashion("x", guard="ratio:a"), (text, "-p", "x", "--guard", "ratio:a")),
        (lambda: fashion("x", guidance_scale=-1.5), (text, "-p", "x", "--guidance", "-1.5")),
        (lambda: fashion("x", negative_prompt="y", guidance_scale=1.0),
         (text, "-p", "x", "--negative", "y", "--guidance", "1")),
        (lambda: fashion("x", class_label=1), (text, "-p", "x", "-c", 1)),
        (lambda: fashion("x", seed=2**64 - 1, n=2), (text, "-p", "x", "--seed", 2**64 - 1, "-n", 2)),
        (lambda: pixels("x"), (classes, "-p", "x")),
        (lambda: pixels(class_label=99), (classes, "-c", 99)),
        (lambda: pixels(negative_prompt="x"), (classes, "--negative", "x")),
    ]  # fmt: skip
    for ours, arguments in cases:
        said = subprocess.run(
            [sanitized / "safegen-generate", *map(str, arguments)], capture_output=True, text=True
        )
        assert (said.returncode, said.stderr) == refused(ours)


@pytest.mark.parametrize("guard", [*RIVALS, "nothing"])
def test_guards_that_python_alone_has_are_named(sanitized: Path, guard: str) -> None:
    said = subprocess.run(
        [sanitized / "safegen-generate", tiny.EMBEDDED, "-p", "x", "--guard", guard],
        capture_output=True,
        text=True,
    )
    known = "ratio, paper, official, off.\n"
    rival = f"the guard '{guard}' is for research and runs in the Python package alone; this host draws with"
    expected = (2, "guard is 'nothing'; known are") if guard == "nothing" else (1, rival)
    assert (said.returncode, said.stderr) == (expected[0], f"error: {expected[1]} {known}")


def test_bench_shows_both_hosts(sanitized: Path) -> None:
    """A fresh process of each draws; the C++ host's memory and time are its own, not Python's."""
    program = sanitized / "safegen-generate"
    said = run(Path(sys.executable).parent / "safegen", "bench", "--host", "cpp", "--program", program,
               "--runs", 1, "--steps", 3, "--json")  # fmt: skip
    times = json.loads(said.stdout)
    assert set(times) == {"python", "cpp"}
    for host in times.values():
        assert 0 < host["step_ms"] < 1000 * host["first_picture_seconds"]
        assert host["peak_memory_mib"] > 20


def test_the_page_for_its_users_builds_as_it_says(configure, dependencies: Path, tmp_path: Path) -> None:
    """The program and the build lines of docs/cpp.md: installed, found by CMake, and by plain g++."""
    page = (ROOT / "docs" / "cpp.md").read_text("utf-8")
    program, cmake, line = (
        re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("cpp", "cmake", r"sh g\+\+")
    )
    assert program.count("\n") < 30
    many = re.search(r"```c\+\+\n(.*?)```", page, re.DOTALL)[1]
    used = f"void draw(const safegen::Pipeline& pipeline, safegen::Request request) {{\n{many}}}\n"
    saved = "void save(std::size_t, const safegen::Picture&) {}\n"
    (tmp_path / "draw.cpp").write_text(program + saved + used, "utf-8")
    (tmp_path / "CMakeLists.txt").write_text(cmake, "utf-8")
    release = configure("release", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--install", release, "--prefix", tmp_path / "installed")
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'};{dependencies}"
    given = release / "onnxruntime" / "libonnxruntime.so.1"
    run("cmake", "-S", tmp_path, "-B", tmp_path / "b", prefix, f"-DONNXRuntime_LIBRARY={given}")
    run("cmake", "--build", tmp_path / "b")
    picture = tmp_path / "coat.ppm"
    run(tmp_path / "b" / "draw", tiny.EMBEDDED, picture)
    assert Image.open(picture).size == (32, 32)
    library = next((dependencies / "lib").glob("*-linux-gnu"))
    run("sh", "-c", line, cwd=tmp_path, env={
        **os.environ, "SAFEGEN": str(tmp_path / "installed"), "DEPENDENCIES": str(dependencies),
        "LIBRARIES": str(library), "ONNXRUNTIME": str(given.parent),
    })  # fmt: skip
    run(tmp_path / "draw", tiny.EMBEDDED, tmp_path / "again.ppm")
    assert (tmp_path / "again.ppm").read_bytes() == picture.read_bytes()
