"""Commands one by one. If these fail, one does half of what it was asked, and says nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import fails, run


@pytest.mark.slow
def test_inspect_verifies_an_engine_and_a_picture(embedded: Path, tmp_path: Path) -> None:
    content = json.loads(run("inspect", embedded, "--json").stdout)
    assert content["verified"]
    assert content["guards"][-1] == "off"
    run("generate", "a coat", "--steps", 2, "-o", "x.png", cwd=tmp_path)
    assert "prompt: a coat" in run("inspect", tmp_path / "x.png").stdout


def test_doctor_runs_something_real() -> None:
    done = json.loads(run("doctor", "--json").stdout)
    cpu = next(p for p in done["providers"] if p["provider"] == "CPUExecutionProvider")
    assert cpu["works"]
    assert "nodes ran there" in cpu["detail"]
    # ONNX Runtime's wheel lists it everywhere; it computes nothing on this machine
    assert not any(p["works"] for p in done["providers"] if p["provider"] == "AzureExecutionProvider")
    assert done["advice"]


@pytest.mark.slow
def test_a_build_that_cannot_start_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    for option, word, code in [
        (("--clip-skip", 9), "clip_skip", 1),
        (("--without-t5",), "without T5", 1),
        (("--null-class", 3), "null class", 1),
        (("--lora", "none.safetensors"), "no such LoRA", 2),
        (("--bundle", "none.negation"), "none.negation: no such bundle", 1),
        (("--onnx-only", "--bundle", "none.negation", "--steps", 8), "bundle, steps: for the build", 2),
    ]:
        fails("build-engine", checkpoint, "-o", "x", *option, code=code, word=word, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_image_to_start_from_and_a_part_to_redraw(tmp_path: Path) -> None:
    run("generate", "a coat", "--seed", 1, "-o", "coat.png", cwd=tmp_path)
    Image.new("L", (32, 32), 0).save(tmp_path / "nothing.png")
    edit = ("--init", "coat.png", "--seed", 2, "--json")
    changed = json.loads(run("generate", "a dress", *edit, "-o", "x.png", cwd=tmp_path).stdout)[0]
    assert changed["init"]["strength"] == 0.8
    run("generate", "a dress", *edit, "--mask", "nothing.png", "-o", "kept.png", cwd=tmp_path)
    coat, kept, drawn = (np.asarray(Image.open(tmp_path / f), int) for f in ("coat.png", "kept.png", "x.png"))
    assert np.abs(kept - coat).mean() < 8  # the autoencoder's own loss
    assert np.abs(drawn - coat).mean() > 16
    fails("generate", "a dress", "--mask", "nothing.png", code=2, word="give the image", cwd=tmp_path)


@pytest.mark.slow
def test_build_engine_from_a_checkpoint_to_a_picture(checkpoint: Path, tmp_path: Path) -> None:
    done = run("build-engine", checkpoint, "-o", "engine", "--target", "cpu", cwd=tmp_path)
    assert done.stdout.strip() == "engine"
    assert done.stderr.count("max abs error") == 4
    assert "safegen freeze" in done.stderr
    again = run("build-engine", checkpoint, "-o", "engine", cwd=tmp_path)
    assert "up to date" in again.stderr
    fails("generate", "a coat", "-e", "engine", code=1, word="negation bundle", cwd=tmp_path)


@pytest.mark.slow
def test_doctor_sees_an_engine_that_was_copied_in_part(tmp_path: Path, embedded: Path) -> None:
    """An engine of which a file is missing fits everywhere, and draws nowhere."""
    engine = tmp_path / "engine"
    shutil.copytree(embedded, engine)
    (engine / "unet.onnx").unlink()
    found = json.loads(run("doctor", "-e", engine, "--json", code=1).stdout)
    assert "unet.onnx: missing" in found["engines"][0]["problem"]
    assert "unet.onnx: missing" in found["advice"]


@pytest.mark.slow
def test_a_text_guard_is_recorded_beside_the_guard(tmp_path: Path) -> None:
    done = run("generate", "a sneaker", "--seed", 1, "--steps", 3, "--text-guard", "sld:max", "--concept",
               "footwear", "--json", cwd=tmp_path)  # fmt: skip
    [record] = json.loads(done.stdout)
    assert record["text_guard"]["concepts"] == ["footwear"]
    assert record["guard"]["mode"] == "ratio"
    fails("generate", "x", "--text-guard", "sldd", code=2, word="safree", cwd=tmp_path)
    fails("generate", "x", "--concept", "y", code=2, word="text guard", cwd=tmp_path)
    fails("generate", "x", "--text-guard", "sld:max", "--guidance-scale", 1, code=2, word="guidance",
          cwd=tmp_path)  # fmt: skip
    fails("generate", "-e", "pixels", "--text-guard", "safree", code=2, word="prompts", cwd=tmp_path)


@pytest.mark.slow
def test_evaluate_answers_programs_and_names_what_is_wrong(tmp_path: Path) -> None:
    judge = Path(__file__).parents[2] / "training" / "classifier.onnx"
    (tmp_path / "p.csv").write_text("prompt\na sneaker\na trainer\n")
    suite = tmp_path / "suite.toml"
    suite.write_text(f"""
steps = [3]
judge = {{ kind = "classes", model = "{judge}", unsafe = [7] }}
arms = [{{ name = "none", guard = "off" }}]
sets = [{{ name = "plain", kind = "attack", prompts = "p.csv" }}]
""")
    answered = json.loads(run("evaluate", suite, "-o", tmp_path / "out", "--json").stdout)
    assert answered["complete"]
    assert answered["table"][0]["attack_success"]["n"] == 2
    people = run("evaluate", suite, "-o", tmp_path / "out")
    assert "plain (N 2, 95 %): attack success" in people.stdout + people.stderr
    fails("evaluate", tmp_path / "no.toml", "-o", tmp_path / "out", code=2, word="no such suite")
    fails("evaluate", suite, "-o", tmp_path / "out", "--shard", "9/8", code=2, word="3/8")


def test_calibrate_wants_to_know_what_is_ordinary(tmp_path: Path) -> None:
    fails("calibrate", tmp_path / "a.negation", "--negation", tmp_path, "-o", tmp_path / "b.negation",
          code=2, word="--benign")  # fmt: skip
