"""tox reads this file before ``tox.ini``: it lets tox find the interpreters that pyenv keeps.

pyenv puts only its shims into PATH. The shim ``python3.13`` ends with an error unless pyenv has version 3.13 selected,
and tox then skips the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__: list[str] = []


def pyenv_folders(environment: Mapping[str, str]) -> list[str]:
    """Return the folders of the interpreters that pyenv keeps, an empty list where there is no pyenv."""
    root = Path(environment.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return sorted(map(str, root.glob("versions/3.*/bin")))


# Behind the other folders: an interpreter that is found without pyenv comes first.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *pyenv_folders(os.environ)])
