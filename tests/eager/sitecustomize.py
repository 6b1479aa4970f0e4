"""Give every event loop of this process the eager task factory of Python 3.12 and newer.

A Python that finds this folder on its path imports this module when it starts, and so the child processes of tests have
such loops too. ``tests/conftest.py`` imports it if ``TIERCACHE_EAGER`` is set.
"""

from __future__ import annotations

import asyncio
from typing import Any


def _make_loops_eager() -> None:
    plain_init = asyncio.BaseEventLoop.__init__

    def eager_init(loop: asyncio.BaseEventLoop, *args: Any, **kwargs: Any) -> None:
        plain_init(loop, *args, **kwargs)
        loop.set_task_factory(asyncio.eager_task_factory)

    asyncio.BaseEventLoop.__init__ = eager_init


if hasattr(asyncio, "eager_task_factory"):
    _make_loops_eager()
