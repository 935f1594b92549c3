"""A function in a process of its own: its memory goes back to the system, and its crash stays its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from safegen.errors import SafegenError

Progress = Callable[..., None]
"""Called with what the function reports; builders report (what is being done, share done from 0 to 1)."""


class DiedError(SafegenError):
    """The process ended without an answer."""


def in_own_process(
    function: Callable[..., Any], *args: Any, progress: Progress | None = None, memory: int | None = None
) -> Any:
    """Call ``function(*args, progress)`` in a fresh interpreter and return what it returns.

    Args:
        function: a module's function; it, its arguments and its result are pickled.
        args: its arguments, before the progress function that it gets as its last.
        progress: called here with what the function reports.
        memory: bytes that the process may allocate; beyond, it gets a MemoryError instead of taking
            the machine down. Linux alone knows such a limit.

    Raises:
        DiedError: the process crashed or was killed.
        Exception: whatever the function raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, memory, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, content = ours.recv()
            if kind == "result":
                return content
            if kind == "error":
                raise content
            if progress:
                progress(*content)
    except EOFError:
        process.join()
        raise DiedError(_how_it_ended(process.exitcode)) from None
    except BaseException:  # Ctrl-C above all: the child may be deep inside a compiler that hears nothing
        process.kill()
        raise
    finally:
        process.join()
        ours.close()


def _how_it_ended(code: int | None) -> str:
    if code == -9:  # SIGKILL, which Windows has no name for
        return "its process was killed, most likely because memory ran out"
    if code is not None and code < 0:
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process ended with exit code {code}"


def _answer(
    pipe: Connection, memory: int | None, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """What the child does. Ctrl-C goes to the whole group; the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if memory is not None:
        _limit(memory)
    try:
        result = function(*args, lambda *report: pipe.send(("progress", report)))
        pipe.send(("result", result))
    except SafegenError as error:
        pipe.send(("error", error))
    except MemoryError:
        pipe.send(("error", DiedError("memory ran out")))


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
