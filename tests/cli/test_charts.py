"""``calibrate --plot``. If these fail, a team signs a chart that is empty, or shows other figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from safegen_cli import plot
from safegen_cli.app import main
from safegen_cli.calibrate import plot_roc

ROC = [
    SimpleNamespace(rate=0.01, false_alarms=0.0125, caught=0.4),
    SimpleNamespace(rate=0.05, false_alarms=0.075, caught=0.7),
    SimpleNamespace(rate=0.2, false_alarms=0.2, caught=0.95),
]


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every figure that is saved."""
    kept, save = [], plot.save
    monkeypatch.setattr(plot, "save", lambda drawn, path: (kept.append(drawn), save(drawn, path)))
    return kept


def check_roc(figure, roc: list, chosen) -> None:
    [axes] = figure.axes
    curve, ring = axes.lines
    assert curve.get_xydata().tolist() == [[p.false_alarms, p.caught] for p in roc]
    assert ring.get_xydata().tolist() == [[chosen.false_alarms, chosen.caught]]
    assert [text.get_text() for text in axes.texts] == [f"{p.rate:.1%}" for p in roc]
    assert axes.get_xlabel() == "gate opens on ordinary pictures"
    assert axes.get_ylabel() == "caught of the negation images"


def test_the_roc_shows_every_point_and_which_is_stored(tmp_path: Path, charts: list) -> None:
    plot_roc(SimpleNamespace(roc=ROC, chosen=ROC[1]), tmp_path / "roc.png")
    check_roc(charts[0], ROC, ROC[1])
    picture = np.asarray(Image.open(tmp_path / "roc.png").convert("RGB"), int)
    assert picture.shape == (500, 800, 3)
    blue = (picture[..., 2] - picture[..., 0] > 80).sum()
    assert 200 < blue < picture[..., 0].size / 10, "a thin curve with its marks, on an empty ground"


def test_the_suffix_says_what_is_written(tmp_path: Path) -> None:
    plot_roc(SimpleNamespace(roc=ROC, chosen=ROC[0]), tmp_path / "roc.svg")
    assert "<svg" in (tmp_path / "roc.svg").read_text()


@pytest.mark.slow
def test_calibrate_draws_the_roc_that_it_answers(
    tmp_path: Path, embedded: Path, monkeypatch, capsys, charts: list
) -> None:
    rng, folders = np.random.default_rng(0), []
    for name, bright in (("negation", 200), ("benign", 60)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for i in range(24):
            pixels = np.clip(rng.normal(bright, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folders[-1] / f"{i}.png")
    images = ("--negation", folders[0], "--benign", folders[1])
    written = ("-o", tmp_path / "b.negation", "--plot", tmp_path / "roc.png", "--json")
    told = ["calibrate", embedded / "default.negation", *images, "--rate", 0.1, *written]
    monkeypatch.setattr(sys, "argv", ["safegen", *map(str, told)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    points = [SimpleNamespace(**point) for point in found["roc"]]
    check_roc(charts[0], points, SimpleNamespace(**found["chosen"]))
    assert Image.open(tmp_path / "roc.png").size == (800, 500)
