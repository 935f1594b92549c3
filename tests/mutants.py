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
import ast
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("runtime", "engines")
GUARD, FORMAT, FREEZE = "runtime/safegen/guard/", "runtime/safegen/format/", "engines/safegen_engines/freeze/"
TESTS = {
    GUARD + "gate.py": "runtime/guard/test_gate.py",
    GUARD + "ratio.py": "runtime/guard/test_ratio.py runtime/guard/test_regions.py",
    GUARD + "bank.py": "runtime/guard/test_bank.py runtime/guard/test_ratio.py",
    GUARD + "bandwidth.py": "runtime/guard/test_bandwidth.py",
    GUARD + "official.py": "runtime/guard/test_official.py",
    GUARD + "paper.py": "runtime/guard/test_paper.py",
    GUARD + "settings.py": "runtime/guard/test_settings.py",
    "runtime/safegen/engine/bind.py": "runtime/engine/test_bind.py runtime/guard/test_regions.py",
    FORMAT + "bundle.py": "runtime/format/test_bundle_numbers.py runtime/format/test_bundle.py",
    FORMAT + "manifest.py": "runtime/format/test_manifest.py",
    FREEZE + "axes.py": "engines/freeze/test_axes.py",
    FREEZE + "banks.py": "engines/freeze/test_banks.py",
    FREEZE + "curves.py": "engines/freeze/test_curves.py",
    FREEZE + "lookalikes.py": "engines/freeze/test_lookalikes.py",
    FREEZE + "rate.py": "engines/freeze/test_rate.py",
    FREEZE + "options.py": "engines/freeze/test_options.py",
    FREEZE + "ordinary.py": "engines/freeze/test_ordinary.py",
    FREEZE + "freeze.py": "engines/freeze/test_freeze.py",
}
"""Module -> the tests that hold it."""
REFUSING = {GUARD + "settings.py", "runtime/safegen/engine/bind.py", FORMAT + "bundle.py", FORMAT + "manifest.py",
            FREEZE + "options.py", FREEZE + "rate.py", FREEZE + "ordinary.py"}  # fmt: skip
"""Modules whose refusals are taken away, too."""
NO_NUMBERS = {FORMAT + "manifest.py"}
"""Modules whose constants decide about no picture."""
EQUIVALENT = {
    (GUARD + "gate.py", "return min(max(math.ceil(round((count + 1) * (1 - rate), 9)), 1), count)", "9"):
        "ten digits round the same hair away",
}  # fmt: skip
"""(module, line, what is changed) -> why no test can see it."""
HEAVY = ("numpy", "onnxruntime", "PIL.Image", "hypothesis", "pytest", "msgspec", "safetensors.numpy",
         "tokenizers", "array_api_strict", "scipy.stats", "filelock", "onnx")  # fmt: skip
"""Imported once, before every child is forked."""
TIMES_LONGER = 10
"""A change that makes tests this many times slower than they were is seen, too."""


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    module: str
    line: int
    start: int
    end: int
    """Bytes of the source, from and to."""
    new: str
    text: str
    """The line that it is in."""
    old: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {_short(self.old)} -> {_short(self.new)}    in: {self.text}"

    @property
    def equivalent(self) -> bool:
        return (self.module, self.text, self.old) in EQUIVALENT

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]


def _short(code: str) -> str:
    return " ".join(code.split())[:60]


def find(module: str) -> list[Mutant]:
    """Every change to a module."""
    source = (ROOT / module).read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]

    def at(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    tree, found = ast.parse(source), []
    for node, new in (*_numbers(module, tree), *_refusals(module, tree)):
        start, end = at(node)
        old, text = source[start:end].decode(), lines[node.lineno - 1].decode().strip()
        found.append(Mutant(module, node.lineno, start, end, new, text, old))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.new))


def _numbers(module: str, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Constants moved, but for those of messages."""
    texts = (ast.walk(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
    messages = {id(node) for text in texts for node in text}
    numbers = (node for node in ast.walk(tree) if id(node) not in messages)
    for node in numbers if module not in NO_NUMBERS else ():
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield node, str(node.value + 1)
        if isinstance(node, ast.Constant) and type(node.value) is float:
            yield node, repr(node.value * 1.25 if node.value else 1.0)


def _refusals(module: str, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Refusals, operands of conditions, links of chained comparisons, and unknown-key checks taken away."""
    for node in ast.walk(tree) if module in REFUSING else ():
        if isinstance(node, ast.Raise | ast.AugAssign):
            yield node, "pass"
        elif isinstance(node, ast.BoolOp):
            for left_out in node.values:
                rest = [value for value in node.values if value is not left_out]
                word = " and " if isinstance(node.op, ast.And) else " or "
                yield node, "(" + word.join(f"({ast.unparse(value)})" for value in rest) + ")"
        elif isinstance(node, ast.Compare) and len(node.ops) > 1:
            yield node, ast.unparse(ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:]))
            yield node, ast.unparse(ast.Compare(node.left, node.ops[:-1], node.comparators[:-1]))
        elif isinstance(node, ast.keyword) and node.arg == "forbid_unknown_fields":
            yield node.value, "False"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.BoolOp | ast.Compare):
                    yield value, "False"


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
    done = known(args.results)
    left = [mutant for mutant in mutants if key_of(mutant) not in done]
    print(f"{len(mutants)} changes to {len(chosen)} modules, {len(left)} to try", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        importlib.import_module(name)
    jobs = [left[i :: args.jobs] for i in range(args.jobs)]
    children = []
    for some in (some for some in jobs if some):
        child = os.fork()
        if child == 0:
            work(some, args.results)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    done = known(args.results)
    seen = [(mutant, done.get(key_of(mutant), "not tried")) for mutant in mutants]
    missed = [(mutant, ended) for mutant, ended in seen if ended not in ("failed", "too slow")]
    for mutant, ended in missed:
        print("survived" if ended == "passed" else ended, mutant)
    print(f"{len(mutants) - len(missed)} of {len(mutants)} changes were seen")
    return int(bool(missed) or any(codes))


if __name__ == "__main__":
    sys.exit(main())
