"""The changes of the mutation check (mutants.py): to what, seen by which tests, and which no test can see."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUARD, FORMAT, FREEZE = "runtime/safegen/guard/", "runtime/safegen/format/", "engines/safegen_engines/freeze/"
BIND = "runtime/safegen/engine/bind.py"
TESTS = {
    GUARD + "gate.py": "runtime/guard/test_gate.py",
    GUARD + "ratio.py": "runtime/guard/test_ratio.py runtime/guard/test_regions.py",
    GUARD + "bank.py": "runtime/guard/test_bank.py runtime/guard/test_ratio.py",
    GUARD + "bandwidth.py": "runtime/guard/test_bandwidth.py",
    GUARD + "official.py": "runtime/guard/test_official.py",
    GUARD + "paper.py": "runtime/guard/test_paper.py",
    GUARD + "settings.py": "runtime/guard/test_settings.py",
    BIND: "runtime/engine/test_bind.py runtime/guard/test_regions.py",
    FORMAT + "bundle.py": "runtime/format/test_bundle_numbers.py runtime/format/test_bundle.py",
    FORMAT + "manifest.py": "runtime/format/test_manifest.py",
}
TESTS |= {f"{FREEZE}{name}.py": f"engines/freeze/test_{name}.py" for name in (
    "axes", "banks", "curves", "lookalikes", "rate", "options", "ordinary", "freeze")}  # fmt: skip
"""Module -> the tests that hold it."""
REFUSING = {GUARD + "settings.py", BIND, FORMAT + "bundle.py", FORMAT + "manifest.py"}
REFUSING |= {f"{FREEZE}{name}.py" for name in ("options", "rate", "ordinary")}
"""Modules whose refusals are taken away, too."""
NO_NUMBERS = {FORMAT + "manifest.py"}
"""Modules whose constants decide about no picture."""
EQUIVALENT = {
    "round((count + 1) * (1 - rate), «9»)": "ten digits round the same hair away",
    "for _ in range(«60»):": "sixty halvings of 1 are below float64's last digit",
    "«1», 1, np.median": "no neighbour comes before the first that is asked for",
    "if len(head) == 8 else «0»": "no file of 8 bytes has a header of one",
    "wide = rows.shape[1] > rows.shape[«0»]": "the larger product has the same axes",
    "np.zeros((1, negation[«0»].size)": "all latents have one size",
    "make_bank(bank, bank[:«1»])": "its benign side is not read",
    "thresholds(gate, rate, [«1.0»])": "beyond the last level the threshold is that of the last",
    "(nothing, None, «1.0»)": "guidance from nothing has no scale",
}
"""Part of a line with what is changed between angle quotes -> why no test can see it."""


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
    """The line, what is changed between angle quotes."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text} -> {self.new}"

    @property
    def equivalent(self) -> bool:
        return any(part in self.text for part in EQUIVALENT)

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]


def find(module: str) -> list[Mutant]:
    """Every change to a module."""
    source = (ROOT / module).read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]
    tree, found = ast.parse(source), []
    for node, new in (*_numbers(module, tree), *_refusals(module, tree)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        parts = (
            source[starts[node.lineno - 1] : start],
            source[start:end],
            source[end : starts[node.end_lineno]],
        )
        before, old, after = (" ".join(part.decode().split()) for part in parts)
        found.append(Mutant(module, node.lineno, start, end, new, _marked(before, old, after)))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.new))


def _marked(before: str, old: str, after: str) -> str:
    space = "" if before.endswith(("(", "[", "-", ":")) else " "
    gap = "" if after.startswith((")", "]", ",", ":")) else " "
    return f"{before}{space}«{old}»{gap}{after}".strip()


def _numbers(module: str, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Constants moved, but for those of messages, and for the -1 of a reshape, which is a word."""
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    texts += [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_reshape(node)]
    spared = {
        id(node)
        for text in texts
        for inner in ast.walk(text)
        for node in ast.walk(inner if isinstance(text, ast.JoinedStr) or _is_minus_1(inner) else ast.Pass())
    }
    for node in ast.walk(tree) if module not in NO_NUMBERS else ():
        if isinstance(node, ast.Constant) and id(node) not in spared:
            if type(node.value) is int:
                yield node, str(node.value + 1)
            elif type(node.value) is float:
                yield node, repr(node.value * 1.25 if node.value else 1.0)


def _is_reshape(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "reshape"


def _is_minus_1(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-1"


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
