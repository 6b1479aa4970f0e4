"""The command line: ``tiercache`` and ``python -m tiercache``.

``main`` stands apart from the commands, because what they are made with is optional.
"""

import sys
from importlib import import_module


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        for needed in ("rich", "typer"):
            import_module(needed)
    except ModuleNotFoundError:
        sys.exit('The command line needs typer and rich: python -m pip install "tiercache[cli]"')
    try:
        from .app import run

        run()
    except KeyboardInterrupt:  # before or after the demo, which has its own way to stop
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
