"""Mutation check: the guard's numbers and what is refused, changed one at a time, must each fail a fast test.

Each numeric constant that decides about a picture is moved (an integer by 1, a float by a quarter), and each
refusal of a bundle, a manifest, or settings is taken away: every ``raise``, every operand of its conditions,
every unknown-key check. Each change is made in a copy of the source roots, never in this tree; then the fast
tests that cover the module run there. A change that no test sees is a survivor, and the exit status is 1.

    python tests/mutants.py                      # all; on two cores some twenty minutes
    python tests/mutants.py --only gate.py       # of some modules, by a part of their names
    python tests/mutants.py --sample 3           # some, chosen by lot
    python tests/mutants.py --list

Results are kept by the content of source and tests (``--results``), so that a run which was stopped goes on,
and a second one tries only what has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from mutations import ROOT, TESTS, Mutant, find

ROOTS = ("runtime", "engines")
"""What is copied."""
HEAVY = ("numpy", "onnxruntime", "PIL.Image", "hypothesis", "pytest", "msgspec", "safetensors.numpy",
         "tokenizers", "array_api_strict", "scipy.stats", "filelock", "onnx")  # fmt: skip
"""Imported once, before every child is forked."""
TIMES_LONGER = 10
"""A change that makes tests this many times slower than they were is seen, too."""


class Workplace:
    """A copy of the source roots in which changes are made, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        for root in ROOTS:
            shutil.copytree(
                ROOT / root, folder / root, ignore=shutil.ignore_patterns("models", "__pycache__")
            )
        (folder / "runtime" / "safegen" / "models").symlink_to(ROOT / "runtime" / "safegen" / "models")

    def run(self, tests: str, limit: float, mutant: Mutant | None = None) -> tuple[str, float]:
        """What became of the tests (``passed``, ``failed``, ``too slow``), and the seconds that they took."""
        path, began = self.folder / (mutant.module if mutant else "none"), time.monotonic()
        if mutant:
            whole = (ROOT / mutant.module).read_bytes()
            path.write_bytes(mutant.apply(whole))
            self.count += 1
            os.utime(path, (self.count, self.count))  # else Python may take the byte code of another change
        child = os.fork()
        if child == 0:
            self._child(tests, writes=mutant is None)
        ended = _wait(child, limit)
        if mutant:
            path.write_bytes(whole)
        return ended, time.monotonic() - began

    def _child(self, tests: str, *, writes: bool) -> None:
        """Run pytest in this fork, and end it."""
        code = 3
        try:
            os.setsid()
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.dont_write_bytecode = not writes
            others = [str(ROOT / root) for root in ("export", "cli", "eval", "tests")]
            sys.path[:0] = [*(str(self.folder / root) for root in ROOTS), *others]
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[: len(ROOTS)])
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(self.folder / "hypothesis")
            pytest = importlib.import_module("pytest")
            files = [str(ROOT / "tests" / name) for name in tests.split()]
            options = [
                "-x",
                "-q",
                "-m",
                "not slow",
                "--hypothesis-seed=0",
                f"--basetemp={self.folder / 'tmp'}",
            ]
            code = int(pytest.main([*files, *options]))
        finally:
            sys.stdout.flush()
            os._exit(code)


def _wait(child: int, limit: float) -> str:
    """How a child ended; 0 is passed, 1 and 2 are a failed test and an import that failed."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "passed", 1: "failed", 2: "failed"}.get(code, f"broken ({code})")
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow"


def key_of(mutant: Mutant) -> str:
    """By content: the module, the change, and the tests with what they share."""
    files = [ROOT / mutant.module, *(ROOT / "tests" / name for name in TESTS[mutant.module].split())]
    files += [ROOT / "tests" / "formulas.py", ROOT / "tests" / "bundles.py"]
    whole = hashlib.sha256(repr((mutant.start, mutant.end, mutant.new)).encode())
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def work(mutants: list[Mutant], results: Path) -> None:
    """Try some changes in an own copy, and write down what became of each."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place, limits = Workplace(Path(folder)), {}
        for mutant in mutants:
            tests = TESTS[mutant.module]
            if tests not in limits:
                ended, seconds = place.run(tests, 600.0)
                if ended != "passed":
                    raise SystemExit(
                        f"{tests}: {ended} before any change.\n{(place.folder / 'log.txt').read_text()}"
                    )
                limits[tests] = 20.0 + TIMES_LONGER * seconds
            ended, seconds = place.run(tests, limits[tests], mutant)
            line = {
                "key": key_of(mutant),
                "ended": ended,
                "seconds": round(seconds, 1),
                "mutant": str(mutant),
            }
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def known(results: Path) -> dict[str, str]:
    """Key -> how it ended."""
    if not results.is_file():
        return {}
    lines = (json.loads(line) for line in results.read_text("utf-8").splitlines())
    return {line["key"]: line["ended"] for line in lines}


def share(mutants: list[Mutant], jobs: int, results: Path) -> bool:
    """Try changes in several processes; whether all of these ended well."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        importlib.import_module(name)
    children = []
    for some in filter(None, (mutants[i::jobs] for i in range(jobs))):
        child = os.fork()
        if child == 0:
            work(some, results)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return not any(codes)


def main(arguments: list[str] | None = None) -> int:
    """Try what is not known yet; 0 where nothing survives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="modules, by a part of their names")
    parser.add_argument("--sample", type=int, help="so many, chosen by lot")
    parser.add_argument("--seed", type=int, default=0, help="of the lot")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "safegen-mutants.jsonl")
    parser.add_argument("--list", action="store_true", help="name them and end")
    args = parser.parse_args(arguments)
    chosen = [m for m in TESTS if not args.only or any(part in m for part in args.only)]
    mutants = [mutant for module in chosen for mutant in find(module) if not mutant.equivalent]
    if args.sample:
        mutants = random.Random(args.seed).sample(mutants, args.sample)
    if args.list:
        print(*mutants, f"{len(mutants)} changes", sep="\n")
        return 0
    left = [mutant for mutant in mutants if key_of(mutant) not in known(args.results)]
    print(f"{len(mutants)} changes to {len(chosen)} modules, {len(left)} to try", flush=True)
    whole, done = share(left, args.jobs, args.results), known(args.results)
    ends = [(mutant, done.get(key_of(mutant), "not tried")) for mutant in mutants]
    missed = [(mutant, end) for mutant, end in ends if end not in ("failed", "too slow")]
    for mutant, end in missed:
        print("survived" if end == "passed" else end, mutant)
    print(f"{len(mutants) - len(missed)} of {len(mutants)} changes were seen")
    return int(bool(missed) or not whole)


if __name__ == "__main__":
    sys.exit(main())
