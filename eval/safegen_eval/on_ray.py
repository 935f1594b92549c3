"""The same work over a cluster: units as a Ray dataset, one evaluator a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from safegen.errors import UsageError
from safegen_eval.run import Evaluator, Unit
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
    suite: Suite, units: Sequence[Unit], *, address: str, workers: int
) -> Iterator[tuple[Unit, pa.Table]]:
    """As :func:`safegen_eval.run.run_here`; results come back to this machine as they are done.

    Args:
        suite: what is drawn; its paths must exist on every node.
        units: which part of it.
        address: of the cluster; ``local`` starts one here.
        workers: evaluators at a time.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray Data: pip install 'safegen[ray]'.") from None
    ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    try:
        # whole before the workers start: they may hold every CPU, and would wait for it for ever
        todo = ray.data.range(len(units), override_num_blocks=len(units)).materialize()
        found = todo.map_batches(
            _Worker, fn_constructor_args=(suite, units), batch_size=1, concurrency=workers
        )
        for row in found.iter_rows():
            with pa.ipc.open_stream(row["pictures"]) as reader:
                yield units[int(row["id"])], reader.read_all()
    finally:
        ray.shutdown()
