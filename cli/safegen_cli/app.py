"""The program ``safegen``."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from safegen import __version__
from safegen.errors import SafegenError, UsageError
from safegen_cli import bench, build_engine, calibrate, doctor, evaluate, freeze, generate, show
from safegen_cli.console import say

EXTRAS = {
    "engines": {"onnx"},
    "export": {"torch", "diffusers", "transformers", "onnxscript"},
    "eval": {"scipy", "matplotlib", "pyarrow", "jinja2", "tomli"},
}
"""Which extra has the packages that a command may find missing."""

app = typer.Typer(
    name="safegen",
    help="Draw pictures with the safe denoiser inside the sampling loop.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; stands anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.command("generate")(generate.generate)
app.command("build-engine")(build_engine.build_engine)
app.command("freeze")(freeze.freeze)
app.command("inspect")(show.inspect)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(evaluate.evaluate)


def main() -> None:
    """Run; exit 0 for success, 1 for a failure, 2 for wrong usage. Errors are one line."""
    warnings.showwarning = lambda message, *where: say(f"warning: {message}")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except SafegenError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        extra = next((name for name, packages in EXTRAS.items() if missing in packages), None)
        if debug or extra is None:
            raise
        say(f"error: this needs {missing}: pip install 'safegen[{extra}]'.")
        sys.exit(2)
    except OSError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("stopped.")
        sys.exit(130)
