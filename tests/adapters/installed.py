"""The frameworks of the adapters: their tests are skipped where one is missing, but not in the environment for them."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

__all__ = ["needs"]


def needs(*modules: str) -> None:
    """Skip the test module that calls this, unless ``modules`` can be imported; call it before importing them."""
    missing = [module for module in modules if find_spec(module.partition(".")[0]) is None]
    if not missing:
        return
    assert os.environ.get("TOX_ENV_NAME", "").partition("-")[0] != "frameworks", f"{missing} must be installed here"
    pytest.skip(f"{', '.join(missing)} is not installed", allow_module_level=True)
