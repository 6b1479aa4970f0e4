"""The command line: ``tiercache`` and ``python -m tiercache``.

``main`` is separate from the commands, because the commands need the optional packages typer and rich.
"""

import sys
from importlib import import_module

from ..version import install_command


def main() -> None:
    """Run the command line and exit with its exit code."""
    try:
        for needed in ("rich", "typer"):
            import_module(needed)
    except ModuleNotFoundError:
        sys.exit(f"The command line needs typer and rich: {install_command('cli')}")
    try:
        from .app import run

        run()
    except KeyboardInterrupt:  # before or after the demo, which handles the signal itself
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
