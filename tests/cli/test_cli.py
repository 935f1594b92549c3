"""The command line. If these fail, a user meets a traceback, or a script reads a wrong answer."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from safegen.engine.engine import MODELS
from safegen.errors import UsageError
from safegen.format.image import read_metadata
from safegen_cli.app import app, main
from safegen_engines.build.fingerprint import LIBRARIES

SAFEGEN = Path(sys.executable).parent / "safegen"
COMMANDS = ["bench", "build-engine", "calibrate", "doctor", "evaluate", "freeze", "generate", "inspect"]


def run(*arguments: object, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([SAFEGEN, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def fails(*arguments: object, code: int, word: str, cwd: Path | None = None, answers: bool = False) -> None:
    """One clear line, no traceback, nothing on stdout; in this process, since each new one imports torch."""
    out, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(said):
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", ["safegen", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == code
    assert bool(out.getvalue()) == answers
    assert word in said.getvalue()
    assert "Traceback" not in said.getvalue()
    if code == 1:
        assert len(said.getvalue().strip().splitlines()) == 1


def test_every_command_has_help_with_an_example() -> None:
    commands = get_command(app).commands
    assert sorted(commands) == COMMANDS
    for name, command in commands.items():
        assert f"Example: safegen {name}" in command.help
        for parameter in command.params:
            assert getattr(parameter, "help", "x"), (name, parameter.name)


def test_every_command_stands_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    text = "".join(p.read_text() for p in [root / "README.md", *(root / "docs").glob("*.md")])
    for name in COMMANDS:
        assert f"safegen {name}" in text


def test_generate_names_the_file_and_never_overwrites(tmp_path: Path) -> None:
    for expected in ("a-coat-7.png", "a-coat-7-2.png"):
        done = run("generate", "a coat", "--seed", 7, "--steps", 3, cwd=tmp_path)
        assert done.stdout.strip() == expected
        assert "guard ratio" in done.stderr
    assert Image.open(tmp_path / "a-coat-7.png").size == (32, 32)


def test_generate_reads_prompts_and_writes_traces_and_plots(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a sneaker\n\na bag\n")
    done = run("generate", "--prompts", "prompts.txt", "-n", 2, "--seed", 1, "--steps", 4, "-o", "out",
               "--json", "--trace", "new/trace.json", "--plot", "plot.png",
               "--preview", "now.png", cwd=tmp_path)  # fmt: skip
    records = json.loads(done.stdout)
    assert [r["prompt"] for r in records] == ["a sneaker"] * 2 + ["a bag"] * 2
    assert [r["seed"] for r in records] == [1, 2, 1, 2]
    for record in records:
        stored = read_metadata(tmp_path / record["file"])
        assert stored == {k: v for k, v in record.items() if k != "file"}
    trace = json.loads((tmp_path / "new" / "trace.json").read_text())
    assert [w["step"] for w in trace[0]["trace"]] == [0, 1, 2, 3]
    assert Image.open(tmp_path / "plot.png").width > 300
    assert Image.open(tmp_path / "now.png").size == (32, 32)


INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from safegen_cli.app import main
main()
"""


def finished(folder: Path) -> list[Path]:
    """Pictures that are whole; nothing else may lie there."""
    files = sorted(folder.iterdir())
    for file in files:
        Image.open(file).load()
        assert read_metadata(file)["prompt"] == "a coat"
    return files


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_loses_no_picture_that_was_finished(tmp_path: Path, as_json: bool) -> None:
    """Of a million: names or records of all that were written, one line that says how many, code 130."""
    out = tmp_path / "out"
    asked = ["generate", "a coat", "-n", "1000000", "--steps", "2", "--batch-size", "3", "-o", str(out)]
    asked += ["--json", "--trace", str(tmp_path / "trace.json")] if as_json else []
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *asked],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (out.is_dir() and any(out.glob("a-coat-*.png"))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    answered, said = process.communicate(timeout=60)
    assert process.returncode == 130
    files = finished(out)
    assert len(files) % 3 == 0  # a batch is finished or not
    names = [r["file"] for r in json.loads(answered)] if as_json else answered.split()
    assert sorted(names) == sorted(map(str, files))
    last = said.strip().splitlines()[-1]
    assert last == f"stopped: {len(files)} of 1000000 pictures are finished and written."
    assert "Traceback" not in said
    if as_json:
        assert len(json.loads((tmp_path / "trace.json").read_text())) == len(files)


def test_batches_finished_before_an_interruption_are_written(tmp_path: Path, monkeypatch) -> None:
    """Where the interruption comes from elsewhere than the keyboard: at the third batch's first step."""
    steps = []

    def watch(self: object, step: object) -> None:
        steps.append(step)
        if len(steps) == 2 * 2 + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("safegen_cli.generate._Watch.__call__", watch)
    fails("generate", "a coat", "-n", 9, "--steps", 2, "--batch-size", 2, "-o", "out", "--json", code=130,
          word="stopped: 4 of 9 pictures", cwd=tmp_path, answers=True)  # fmt: skip
    assert len(finished(tmp_path / "out")) == 4


def test_threads_are_the_pipeline_s(tmp_path: Path, monkeypatch) -> None:
    told = {}

    def load(*names: object, **options: object) -> None:
        told.update(options)
        raise UsageError("enough")

    monkeypatch.setattr("safegen.engine.pipeline.Pipeline.load", load)
    fails("generate", "a coat", "--threads", 3, code=2, word="enough", cwd=tmp_path)
    assert told["threads"] == 3
    fails("generate", "a coat", "--threads", 0, code=2, word="--threads", cwd=tmp_path)


def test_drawing_without_a_guard_is_said_on_the_screen(tmp_path: Path) -> None:
    done = run("generate", "a coat", "--guard", "off", "--steps", 2, "-o", "x.png", cwd=tmp_path)
    assert "WITHOUT A GUARD" in done.stderr
    assert read_metadata(tmp_path / "x.png")["guarded"] is False


@pytest.mark.slow
def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    fails("generate", "a coat", "--solver", "heun", code=2, word="known are", cwd=tmp_path)
    fails("generate", code=2, word="nothing to draw", cwd=tmp_path)
    fails("generate", "a coat", "--size", "huge", code=2, word="WIDTHxHEIGHT", cwd=tmp_path)
    fails("generate", "a coat", "-n", 2, "-o", "one.png", code=2, word="one file for 2", cwd=tmp_path)
    fails("generate", "a coat", "-o", "one.jpg", code=2, word="name it one.png", cwd=tmp_path)
    fails("generate", "a coat", "--guard-strength", 3, code=2, word="No such option", cwd=tmp_path)
    fails("generate", "a coat", "--plot", "p.xyz", code=2, word="name it p.png", cwd=tmp_path)
    fails("generate", "a coat", "--preview", "p.jpg", code=2, word="name it p.png", cwd=tmp_path)
    fails("generate", "a coat", "--trace", tmp_path, code=2, word="is a folder", cwd=tmp_path)
    fails("generate", "a coat", "--negative-prompt", "a bag", "--guidance-scale", 1, code=2,
          word="leaves it out", cwd=tmp_path)  # fmt: skip
    fails("bench", "--host", "cpp", "--batch-size", 2, code=2, word="leave them out", cwd=tmp_path)
    fails("inspect", tmp_path, "--checkpoint", "x", code=2, word="add --explain", cwd=tmp_path)
    fails("generate", "a coat", "--strength", 0.5, code=2, word="give the image", cwd=tmp_path)
    fails("freeze", "*.gif", "-o", "x", code=2, word="no images", cwd=tmp_path)
    fails("freeze", "x", "--benign", "y", "--benign-count", 9, "-o", "x", code=2, word="it draws none",
          cwd=tmp_path)  # fmt: skip
    fails("evaluate", "x.toml", "-o", "x", "--workers", 3, code=2, word="are for --ray", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "prompts.txt").write_text("un café\n", "latin-1")
    fails("freeze", "prompts.txt", "-o", "x", "--benign-prompts", "prompts.txt", code=2,
          word="not text in UTF-8", cwd=tmp_path)  # fmt: skip


@pytest.mark.slow
def test_refusals_end_with_1_and_draw_nothing(tmp_path: Path, embedded: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(embedded, engine)
    (engine / "unet.onnx").write_bytes((engine / "unet.onnx").read_bytes()[:-1])
    fails("generate", "a coat", "-e", engine, code=1, word="unet.onnx", cwd=tmp_path)
    fails("generate", "a coat", "-e", tmp_path / "none", code=1, word="no engine.json", cwd=tmp_path)
    fails("generate", "a coat", "-b", "none.negation", code=1, word="safegen freeze", cwd=tmp_path)
    fails("generate", "a coat", "--steps", 2, "-o", engine / "unet.onnx/x/y.png", code=2,
          word="no file can be written", cwd=tmp_path)  # fmt: skip
    fails("build-engine", tmp_path / "none", "-o", "x", code=1, word="no such folder", cwd=tmp_path)
    fails("inspect", engine / "unet.onnx", code=1, word="not a negation bundle", cwd=tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in run("generate", "x", "-b", "none", "--debug", cwd=tmp_path, code=1).stderr


@pytest.mark.slow
def test_freeze_inspect_and_contact_sheet(tmp_path: Path, picture_folder: Path) -> None:
    (picture_folder / "more.heic").write_bytes(b"not read")
    both = (picture_folder, "--benign", picture_folder)
    done = run("freeze", *both, "-o", "x.negation", "--json", cwd=tmp_path)
    frozen = json.loads(done.stdout)
    # nothing is guarded against that was left out without a word
    assert "left out 1 files" in done.stderr and "more.heic" in done.stderr
    shown = run("inspect", "x.negation", "--json", "--contact-sheet", "sheet.png", cwd=tmp_path)
    content = json.loads(shown.stdout)
    assert content["digest"] == frozen["digest"]
    assert content["negation_count"] == 12
    assert content["guard"]["false_positive_rate"] == frozen["gate"]["rate"] == 0.2  # of four pictures
    assert Image.open(tmp_path / "sheet.png").width == 12 * 34 - 2
    fails("inspect", "x.negation", "--contact-sheet", "sheet", code=2, word="name it sheet.png", cwd=tmp_path)
    fails("freeze", *both, "-o", "y.negation", "--guard", "paper", "--false-positive-rate", 0.01, code=2,
          word="the guard paper has none", cwd=tmp_path)  # fmt: skip
    drawn = run("generate", "a coat", "-b", "x.negation", "--json", "--steps", 2, cwd=tmp_path)
    assert json.loads(drawn.stdout)[0]["bundle"] == frozen["digest"]


def test_freeze_refuses_a_rate_that_cannot_be_told_and_says_what_a_gate_misses(
    tmp_path: Path, picture_folder: Path
) -> None:
    """Both sides show the same, so that the gate stays shut."""
    (tmp_path / "asked.txt").write_text("a coat\na bag\na dress\na boot\n")
    never = ("freeze", picture_folder, "--benign", picture_folder, "-o", "x.negation")
    never += ("--benign-prompts", "asked.txt")
    fails(*never, "--false-positive-rate", "0.005", code=2, cwd=tmp_path,
          word="4 ordinary pictures cannot tell a rate of 0.005; give at least 199, or ask for")  # fmt: skip
    assert not (tmp_path / "x.negation").exists()
    said = run(*never, cwd=tmp_path).stderr
    assert "may open on 20 % of ordinary pictures: 20.00% on average, at most 52.71% in 95 of 100" in said
    assert "what they show will often be drawn" in said


def test_bench_times_every_component() -> None:
    found = json.loads(run("bench", "--runs", 1, "--steps", 3, "--threads", 1, "--json").stdout)
    assert set(found["components_ms"]) == {"text_encoder", "unet", "vae_decoder"}
    assert all(ms > 0 for ms in found["components_ms"].values())
    assert found["step_ms"] > found["components_ms"]["unet"] * 0.5  # a step holds a run of the model
    assert 0 < found["guard_share"] < 1
    assert found["steps"] == 3


def test_doctor_knows_the_embedded_engines_by_name() -> None:
    found = json.loads(run("doctor", "-e", "pixels", "--json").stdout)
    assert found["engines"][0]["problem"] is None


@pytest.mark.parametrize("model", ["fashion", "pixels"])
def test_explain_says_what_a_rebuild_would_have_different(model: str) -> None:
    found = json.loads(run("inspect", MODELS / model, "--explain", "--json").stdout)
    assert "weights" in found["same"]
    assert set(found["different"]) <= set(LIBRARIES)  # other versions than built the embedded engine


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("onnx", "engines", ["build-engine", "x", "-o", "y"]),
        ("pyarrow", "eval", ["evaluate", "x.toml", "-o", "y"]),
    ],
)
def test_a_missing_extra_is_named_in_one_line(tmp_path, package, extra, arguments) -> None:
    """The demo's environment has neither: its user types the README's next command."""
    code = f"import sys; sys.modules[{package!r}] = None; from safegen_cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: this needs {package}: pip install 'safegen[{extra}]'."
