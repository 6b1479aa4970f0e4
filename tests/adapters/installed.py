"""The frameworks of the adapters: their tests are skipped where one is missing, but not in the environment for them."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

__all__ = ["is_installed", "needs"]


def needs(*modules: str, tox_env: str | None = None) -> None:
    """Skip the test module that calls this, unless ``modules`` can be imported; call it before importing them.

    Args:
        tox_env: The one environment of tox that must have the modules; None: each environment for frameworks.
    """
    missing = [module for module in modules if not is_installed(module)]
    if not missing:
        return
    name = os.environ.get("TOX_ENV_NAME", "")
    must_have = name.partition("-")[0] == "frameworks" if tox_env is None else name == tox_env
    assert not must_have, f"{missing} must be installed here"
    pytest.skip(f"{', '.join(missing)} is not installed", allow_module_level=True)


def is_installed(module: str) -> bool:
    """Return whether ``module`` can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # A package around it is missing.
        return False
