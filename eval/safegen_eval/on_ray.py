"""The same work over a cluster: units as a Ray dataset, one evaluator a worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safegen.errors import UsageError
from safegen_eval.run import Evaluator, Report, Unit, keep, path_of
from safegen_eval.suite import Suite


class _Worker:
    """Opened once in each process of the cluster; engines, bundles and models must be at the same paths."""

    def __init__(self, suite: Suite, units: Sequence[Unit]) -> None:
        self._evaluator, self._units = Evaluator(suite), units

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        [index] = batch["id"].tolist()
        sink = pa.BufferOutputStream()
        table = self._evaluator.run(self._units[index])
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"id": batch["id"], "pictures": np.array([sink.getvalue().to_pybytes()], object)}


def run_on_ray(
    suite: Suite, units: Sequence[Unit], out: Path, report: Report, *, address: str | None, workers: int
) -> None:
    """As :func:`safegen_eval.run.run_units`; results come back to this machine.

    Args:
        suite: what is drawn; its paths must exist on every node.
        units: which part of it.
        out: where results are kept, here alone.
        report: progress.
        address: of the cluster; ``local`` starts one here.
        workers: evaluators at a time.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray Data: pip install 'safegen[ray]'.") from None
    total = sum(len(unit.todo) for unit in units)
    missing = [unit for unit in units if not path_of(out, unit).is_file()]
    done = total - sum(len(unit.todo) for unit in missing)
    report(done, total)
    if not missing:
        return
    (out / "parts").mkdir(parents=True, exist_ok=True)
    ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    try:
        # whole before the workers start: they may hold every CPU, and would wait for it for ever
        todo = ray.data.range(len(missing), override_num_blocks=len(missing)).materialize()
        found = todo.map_batches(
            _Worker,
            fn_constructor_args=(suite, missing),
            batch_size=1,
            concurrency=workers,
        )
        for row in found.iter_rows():
            unit = missing[int(row["id"])]
            with pa.ipc.open_stream(row["pictures"]) as reader:
                keep(out, unit, reader.read_all())
            done += len(unit.todo)
            report(done, total)
    finally:
        ray.shutdown()
