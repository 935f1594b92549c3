"""What imports what. If these fail, an edge box needs a workstation's gigabytes."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "typer",
    "rich",
    "scipy",
    "matplotlib",
}


def imported_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running some code."""
    ending = "\nimport sys; print(' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_runtime_draws_without_any_of_the_workstations_libraries() -> None:
    found = imported_by("from safegen import Pipeline\nPipeline.load()('a coat', steps=2)")
    assert not found & HEAVY
    assert not found & {"safegen_engines", "safegen_export", "safegen_cli"}


def test_importing_safegen_imports_nothing_heavy_at_all() -> None:
    assert not imported_by("import safegen") & (HEAVY | {"numpy", "onnxruntime", "PIL", "tokenizers"})


def test_freezing_needs_neither_torch_nor_onnx() -> None:
    assert not imported_by("import safegen_engines.freeze.freeze") & HEAVY


def test_building_from_onnx_needs_no_torch() -> None:
    assert not imported_by("import safegen_engines.build.build") & {
        "torch",
        "diffusers",
        "transformers",
        "typer",
    }


def test_the_command_line_starts_without_the_runtime() -> None:
    found = imported_by("import safegen_cli.app")
    assert not found & {"torch", "onnxruntime", "onnx", "safegen_export"}


ARROWS = {
    "runtime/safegen": set(),
    "engines/safegen_engines": {"safegen"},
    "export/safegen_export": {"safegen"},
    "eval/safegen_eval": {"safegen"},
    "cli/safegen_cli": {"safegen", "safegen_engines", "safegen_export", "safegen_eval"},
}


@pytest.mark.parametrize("folder", ARROWS)
def test_the_arrows_between_the_packages(folder: str) -> None:
    own = Path(folder).name
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            ours = {n.split(".")[0] for n in names if n.split(".")[0].startswith("safegen")}
            assert ours <= ARROWS[folder] | {own}, path


@pytest.mark.slow
def test_the_wheel_alone_draws_where_there_is_no_torch(tmp_path: Path) -> None:
    """Installed as a user installs it: the wheel, its extras, and nothing of this repository."""
    run = lambda *a, **k: subprocess.run(a, check=True, capture_output=True, text=True, **k)  # noqa: E731
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "safegen/models/fashion/engine.json" in names
    assert wheel.stat().st_size < 25 * 2**20
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    lock = ROOT / "requirements" / "runtime.txt"
    run(python, "-m", "pip", "install", "-q", "--no-compile", "-c", lock, f"{wheel}[cpu,cli]")
    size = sum(f.stat().st_size for f in (tmp_path / "venv").rglob("*") if not f.is_symlink())
    assert size < 250e6  # an edge box's disk; pip itself is 15 MB of it
    safegen = tmp_path / "venv" / "bin" / "safegen"
    done = run(safegen, "generate", "a coat", "--seed", "1", "--steps", "4", cwd=tmp_path)
    assert done.stdout.strip() == "a-coat-1.png"
    assert (tmp_path / "a-coat-1.png").is_file()
    packages = run(python, "-m", "pip", "list", "--format", "freeze").stdout
    assert "torch" not in packages
    run(safegen, "doctor", cwd=tmp_path)
