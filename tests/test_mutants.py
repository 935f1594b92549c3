"""The mutation check itself. If these fail, a number of the guard may move and no test says so."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import EQUIVALENT, REFUSING, ROOT, TESTS, find

SCRIPT = Path(__file__).parent / "mutants.py"
ONE = """
import sys
import mutants, mutations
mutations.EQUIVALENT.clear()
mutants.find = lambda module: [m for m in mutations.find(module) if "«9»" in m.text]
sys.exit(mutants.main(["--only", "guard/gate.py", "--jobs", "1", "--results", sys.argv[1]]))
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=SCRIPT.parent, capture_output=True, text=True
    )


def test_every_change_is_of_a_module_that_reads_as_python() -> None:
    for module, tests in TESTS.items():
        source, changes = (ROOT / module).read_bytes(), find(module)
        assert changes
        assert all((ROOT / "tests" / name).is_file() for name in tests.split())
        changed = {change.apply(source) for change in changes}
        assert source not in changed and len(changed) == len(changes)
        for code in changed:
            ast.parse(code)


def test_the_guard_s_numbers_and_each_refusal_are_among_them() -> None:
    texts = [str(change) for module in TESTS for change in find(module)]
    for word in ("HIGH = «0.9» -> 1.125", "RATE = «0.005»", "DOUBTFUL = «0.1»", "BANDWIDTH_SHARE = «1» / 3"):
        assert sum(word in text for text in texts) == 1, word
    for module in REFUSING:
        raises = (ROOT / module).read_text().count("        raise ")
        assert sum(change.new == "pass" for change in find(module)) >= raises
    strict = (ROOT / "runtime/safegen/format/manifest.py").read_text().count("forbid_unknown_fields=True")
    assert sum("manifest.py" in text and text.endswith("False") for text in texts) == strict == 11


def test_what_is_said_to_have_no_effect_is_still_there() -> None:
    for part in EQUIVALENT:
        assert any(part in change.text for module in TESTS for change in find(module)), part


@pytest.mark.slow
def test_some_changes_chosen_by_lot_are_seen(tmp_path: Path) -> None:
    done = run(SCRIPT, "--sample", 3, "--jobs", 1, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 changes were seen" in done.stdout


@pytest.mark.slow
def test_a_change_that_no_test_sees_is_named_and_the_second_run_knows_it(tmp_path: Path) -> None:
    for left in (1, 0):
        done = run("-c", ONE, tmp_path / "results")
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"1 changes to 1 modules, {left} to try" in done.stdout
        assert "survived runtime/safegen/guard/gate.py" in done.stdout
    assert len((tmp_path / "results").read_text().splitlines()) == 1
