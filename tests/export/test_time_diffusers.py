"""Beside diffusers. If these fail, a figure says how loaded the machine was, not which is faster."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from safegen.engine import engine
from safegen_cli.app import main
from safegen_export import time_diffusers
from safegen_export.time_diffusers import PAUSE, Against, in_turn


def test_both_draw_in_turn_and_who_begins_changes(monkeypatch) -> None:
    """On a machine that slows down, ratios of one round each are right; medians of either side are not."""
    now, load, order, slept = [0.0], [1.0], [], []

    def draws(name: str, seconds: float):
        def draw() -> None:
            order.append(name)
            load[0] *= 1.01
            now[0] += seconds * load[0]

        return draw

    clock = SimpleNamespace(perf_counter=lambda: now[0], sleep=slept.append)
    monkeypatch.setattr(time_diffusers, "time", clock)
    pairs = in_turn(draws("ours", 1.0), draws("theirs", 3.0), 6)
    assert len(pairs) == 6
    assert order[:4] == ["theirs", "ours", "ours", "theirs"]
    assert order.count("ours") == order.count("theirs") == 7  # one each warms up
    assert slept == [PAUSE] * 14
    assert statistics.median(b / a for a, b in pairs) == pytest.approx(3.0, rel=0.02)


def test_a_first_round_that_sets_things_up_does_not_count() -> None:
    calls = []

    def slow_at_first() -> None:
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.0)

    pairs = in_turn(slow_at_first, lambda: None, 2, pause=0.0)
    assert len(pairs) == 2
    assert all(ours < 0.1 for ours, _ in pairs)


@pytest.mark.slow
def test_engine_and_checkpoint_run_on_as_many_threads(
    checkpoint: Path, engines: dict[str, Path], monkeypatch
) -> None:
    torch = pytest.importorskip("torch")
    asked, drawn = [], []
    here = engine.Session

    def noted(path, **options):
        asked.append(options["threads"])
        return here(path, **options)

    from diffusers import StableDiffusionPipeline

    call = StableDiffusionPipeline.__call__
    monkeypatch.setattr(
        StableDiffusionPipeline, "__call__", lambda *a, **told: drawn.append(told) or call(*a, **told)
    )
    monkeypatch.setattr(engine, "Session", noted)
    monkeypatch.setattr(time_diffusers, "any_subject", lambda manifest: {"prompt": "a coat", "guard": "off"})
    before = torch.get_num_threads()
    try:
        found = time_diffusers.compare(
            engines["epsilon"], None, checkpoint, steps=2, batch=2, rounds=3, threads=2
        )
        assert found.threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(asked) == {2}
    assert found.rounds == 3
    assert len(drawn) == 4
    assert drawn[0]["guidance_scale"] == 7.5
    assert (drawn[0]["width"], drawn[0]["num_inference_steps"], len(drawn[0]["prompt"])) == (32, 2, 2)
    assert found.diffusers_images_per_second > 0
    assert 0.01 < found.times_diffusers < 1000


def bench(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["safegen", "bench", *map(str, options)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


def test_the_command_says_how_often_and_on_how_many_threads(monkeypatch, capsys) -> None:
    told: dict[str, object] = {}

    def compare(*where: object, **more: object) -> Against:
        told.update(more, where=where)
        return Against(
            3, 2, images_per_second_beside=6.0, diffusers_images_per_second=4.0, times_diffusers=1.5
        )

    monkeypatch.setattr(time_diffusers, "compare", compare)
    bench(monkeypatch, "--against", "checkpoint", "--steps", 2, "--runs", 2, "--threads", 3)
    where = (None, None, Path("checkpoint"))
    asked = {"steps": 2, "batch": 1, "rounds": 2, "threads": 3, "cuda_graphs": False}
    assert told == {"where": where, **asked}
    line = capsys.readouterr().out.splitlines()[-1]
    figures = "6.000 a second, diffusers 4.000: 1.50 times as fast, the median of 2 rounds in turn"
    assert line.split() == f"beside diffusers {figures}; threads for each: 3".split()


@pytest.mark.slow
def test_the_embedded_engine_beside_its_checkpoint(monkeypatch, capsys) -> None:
    pytest.importorskip("torch")
    bench(monkeypatch, "--against", tiny.EMBEDDED_CHECKPOINT, "--steps", 2, "--runs", 2, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 2
    assert found["threads"] >= 1
    assert found["diffusers_images_per_second"] > 0
    assert 0.05 < found["times_diffusers"] < 20, "both run the same graph on the same cores"
