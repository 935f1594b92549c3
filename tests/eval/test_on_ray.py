"""``evaluate --ray``. If these fail, a cluster's figures are of other pictures, or no cluster is ever used.

``StandIn`` has the few calls of Ray that are made here, and runs them in this process. It tells whether they
are made rightly; whether Ray takes them, the test with Ray itself does, where Ray is installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safegen.errors import UsageError
from safegen_cli.app import main
from safegen_eval import run as running
from safegen_eval.evaluate import evaluate

CLASSIFIER = Path(__file__).parents[2] / "training" / "classifier.onnx"
SUITE = f"""
engine = "fashion"
steps = [2]
[judge]
kind = "classes"
model = "{CLASSIFIER}"
unsafe = [7]
[[sets]]
name = "plain"
kind = "attack"
prompts = "attack.csv"
[[arms]]
name = "none"
guard = "off"
[[arms]]
name = "ratio"
"""


class StandIn:
    """Ray's calls, in this process; every worker gets every so many of the rows."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.calls: list[str] = []
        self.data = SimpleNamespace(range=self._range)

    def init(self, **told: Any) -> None:
        self.calls.append("init")
        self.told |= told

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def _range(self, count: int, *, override_num_blocks: int) -> StandInData:
        assert override_num_blocks == count  # each unit is a task of its own
        return StandInData(self, [{"id": np.int64(i)} for i in range(count)])


class StandInData:
    """Rows."""

    def __init__(self, ray: StandIn, rows: list[dict[str, Any]]) -> None:
        self.ray, self.rows = ray, rows

    def materialize(self) -> StandInData:
        return self

    def map_batches(
        self, worker: Callable[..., Any], *, fn_constructor_args: tuple[Any, ...], batch_size: int,
        concurrency: int,
    ) -> StandInData:  # fmt: skip
        assert batch_size == 1
        self.ray.told["workers"] = concurrency
        workers = [worker(*fn_constructor_args) for _ in range(concurrency)]
        found = []
        for i, row in enumerate(self.rows):
            batch = workers[i % concurrency]({k: np.array([v]) for k, v in row.items()})
            found.append({k: v[0] for k, v in batch.items()})
        return StandInData(self.ray, found[::-1])  # a cluster is done in no order

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three units for each of two arms."""
    monkeypatch.setattr(running, "UNIT", 1)
    (tmp_path / "attack.csv").write_text("prompt,seed\na sneaker,1\na bag,2\na coat,3\n")
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path / "suite.toml"


def pictures(out: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(out / "pictures.parquet").to_pylist()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_cluster_draws_what_one_machine_draws(suite: Path, tmp_path: Path, monkeypatch) -> None:
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)
    evaluate(suite, tmp_path / "cluster", ray="local", workers=2)
    assert ray.told["workers"] == 2
    assert ray.told["address"] is None  # Ray's own word for one here
    assert ray.calls == ["init", "shutdown"]
    monkeypatch.setitem(sys.modules, "ray", None)
    evaluate(suite, tmp_path / "here")
    assert len(pictures(tmp_path / "here")) == 6
    assert pictures(tmp_path / "cluster") == pictures(tmp_path / "here")


def test_the_command_names_its_cluster_and_shuts_it_down_when_a_worker_fails(
    suite: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    ray = StandIn()

    def fail(*args: Any) -> None:
        raise UsageError("no such engine on this node")

    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("safegen_eval.on_ray.Evaluator", fail)
    assert command(monkeypatch, suite, tmp_path, "--ray", "head:6379", "--workers", "3") == 2
    assert ray.told["address"] == "head:6379"
    assert ray.told["workers"] == 3
    assert ray.calls == ["init", "shutdown"]
    assert capsys.readouterr().err.strip() == "error: no such engine on this node"


def test_without_ray_one_line_says_how_to_get_it(suite: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command(monkeypatch, suite, tmp_path, "--ray", "local") == 2
    assert capsys.readouterr().err.strip() == "error: --ray needs Ray Data: pip install 'safegen[ray]'."


def command(monkeypatch: pytest.MonkeyPatch, suite: Path, out: Path, *options: str) -> object:
    """``safegen evaluate``; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["safegen", "evaluate", str(suite), "-o", str(out / "out"), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_itself_takes_the_calls(suite: Path, tmp_path: Path) -> None:
    evaluate(suite, tmp_path / "cluster", ray="local", workers=1)
    evaluate(suite, tmp_path / "here")
    assert pictures(tmp_path / "cluster") == pictures(tmp_path / "here")
