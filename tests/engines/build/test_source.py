"""From a folder to an engine, in one call. If these fail, a build exports twice, or leaves rubbish behind."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_own_model import write_model

from safegen.errors import EngineError, ExportError, UsageError
from safegen.format.manifest import read_manifest
from safegen_cli.app import main
from safegen_engines.build import build as building
from safegen_engines.build import onnx_folder, options, source, target
from safegen_engines.build.build import build
from safegen_engines.build.options import Options
from safegen_engines.build.own_model import write_onnx_folder
from safegen_engines.build.source import write_onnx

GUARDED = Options(guards=("ratio",))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder that describes a bare ONNX file."""
    return write_model(tmp_path / "own")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that only :class:`Exporter` can read."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


class Exporter:
    """Writes the graphs of a bare model, as safegen_export does those of a checkpoint; counts its calls."""

    def __init__(self, bare: Path, problem: Exception | None = None, finished: str | None = None) -> None:
        self.bare, self.problem, self.finished, self.folders = bare, problem, finished, []

    def __call__(self, checkpoint: Path, folder: Path, options: Options) -> None:
        self.folders.append(folder)
        if self.finished:
            (folder / self.finished).mkdir(parents=True, exist_ok=True)
            (folder / self.finished / "done.txt").write_text("its key")
        if self.problem:
            raise self.problem
        write_onnx_folder(self.bare, folder)


def test_the_command_finds_its_target_and_prepares_its_source_once(
    bare: Path, tmp_path: Path, monkeypatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(module, name: str) -> None:
        here = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, **more: (calls.update([name]), here(*args, **more))[1]
        )

    where = {
        "find_target": (target, options, source),
        "check_options": (options, building),
        "up_to_date": (options, building),
        "prepare": (options, building, source),
        "make_source": (source, building),
        "write_onnx_folder": (source,),
        "open_source": (onnx_folder, source),
    }
    for name, modules in where.items():
        for module in modules:
            counted(module, name)
    monkeypatch.setattr(sys, "argv", ["safegen", "build-engine", str(bare), "-o", str(tmp_path / "engine")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert calls == dict.fromkeys(where, 1)


def test_a_checkpoint_is_exported_once_and_not_again_where_nothing_changed(
    bare: Path, checkpoint: Path, tmp_path: Path
) -> None:
    export, out, built = Exporter(bare), tmp_path / "engine", []
    first = build(checkpoint, out, GUARDED, export=export, report=built.append)
    assert export.folders == [out / ".build" / "onnx"]
    assert [(b.name, b.count) for b in built] == [("unet", 1)]
    assert (first.name, first.precision) == ("checkpoint", "fp32")
    again = build(checkpoint, out, GUARDED, export=export, report=built.append)
    assert again == read_manifest(out)
    assert len(export.folders) == len(built) == 1


@pytest.mark.parametrize("problem", [ExportError("no weights"), UsageError("no such scale")])
def test_an_export_that_fails_leaves_nothing(bare: Path, checkpoint: Path, tmp_path: Path, problem) -> None:
    with pytest.raises(type(problem)):
        build(checkpoint, tmp_path / "engine", GUARDED, export=Exporter(bare, problem))
    assert not (tmp_path / "engine").exists()


def test_what_an_export_finished_stays_for_the_next_run(bare: Path, checkpoint: Path, tmp_path: Path) -> None:
    half = Exporter(bare, ExportError("memory ran out"), finished="text_encoder")
    with pytest.raises(ExportError):
        build(checkpoint, tmp_path / "engine", GUARDED, export=half)
    assert (tmp_path / "engine" / ".build" / "onnx" / "text_encoder" / "done.txt").is_file()


def test_options_of_the_export_are_refused_for_what_is_onnx(bare: Path, tmp_path: Path) -> None:
    write_onnx_folder(bare, tmp_path / "onnx")
    for given in ({"clip_skip": 1}, {"null_class": 3}, {"without_t5": True}):
        with pytest.raises(UsageError, match="this is ONNX already"):
            build(tmp_path / "onnx", tmp_path / "engine", Options(**given))
    assert not (tmp_path / "engine").exists()


def test_without_an_exporter_the_first_missing_graph_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"unet/model\.onnx: missing"):
        build(checkpoint, tmp_path / "engine", GUARDED)
    with pytest.raises(ExportError, match="no such folder"):
        build(tmp_path / "none", tmp_path / "engine", GUARDED)
    assert not (tmp_path / "engine").exists()


def test_an_onnx_folder_is_written_to_be_carried(bare: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, export = tmp_path / "onnx", Exporter(bare)
    write_onnx(checkpoint, out, Options(target="orin-jp62"), export=export)
    assert onnx_folder.open_source(out).model == "unet"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoint", "onnx", "own"]
    write_onnx(checkpoint, out, Options(), export=export)  # again, over its own
    with pytest.raises(UsageError, match="is an ONNX folder already"):
        write_onnx(out, tmp_path / "twice", Options(), export=export)
    with pytest.raises(UsageError, match="steps, portable: for the build on the device"):
        write_onnx(checkpoint, out, Options(steps=4, portable=True), export=export)
    with pytest.raises(UsageError, match="holds other things"):
        write_onnx(checkpoint, checkpoint, Options(), export=export)
    assert len(export.folders) == 2
    shutil.rmtree(out)
    build(bare, tmp_path / "engine", GUARDED)
    assert len(export.folders) == 2  # a bare file needs none


def test_a_build_hands_out_the_manifest_as_it_was_sealed(bare: Path, tmp_path: Path) -> None:
    """Else the digest that the command prints, which people note down, is all zeros."""
    out = tmp_path / "engine"
    built = build(bare, out, GUARDED)
    assert built.digest == read_manifest(out).digest
    assert built.digest.strip("0")
