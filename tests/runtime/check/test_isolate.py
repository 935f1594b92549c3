"""A stage in a process of its own. If these fail, one that runs out of memory takes the build with it."""

import os
import threading

import pytest

from safegen.check.isolate import DiedError, in_own_process
from safegen.errors import EngineError, SafegenError
from safegen.machine import available_memory


def add_one(number: int, progress) -> int:
    progress("adding", 0.5)
    return number + 1


def refuse(progress) -> None:
    raise EngineError("no")


def take(count: int, progress) -> int:
    return len(bytearray(count))


def crash(progress) -> None:
    os.abort()


def test_a_function_runs_in_a_process_of_its_own() -> None:
    seen = []
    assert in_own_process(add_one, 1, progress=lambda *report: seen.append(report)) == 2
    assert seen == [("adding", 0.5)]
    with pytest.raises(EngineError, match="no"):
        in_own_process(refuse)


def wait(progress) -> None:
    progress("waiting", 0.0)
    threading.Event().wait()


def test_ctrl_c_ends_it_at_once() -> None:
    def interrupt(*report) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_own_process(wait, progress=interrupt)  # would wait for ever


@pytest.mark.skipif(available_memory() is None, reason="only Linux limits a process's memory")
def test_too_much_memory_or_a_crash_stays_in_it() -> None:
    with pytest.raises(DiedError, match="memory ran out"):
        in_own_process(take, 2_000_000_000, memory=500_000_000)
    with pytest.raises(SafegenError, match="SIGABRT"):
        in_own_process(crash)
