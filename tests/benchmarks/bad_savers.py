"""Checkpoint savers with defects, which the probes of the comparison must notice."""

from __future__ import annotations

import pickle
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.comparison.product import Setting, Threads


class ForgetfulSaver(InMemorySaver):
    """Pickles each checkpoint, and lists none. A saver that is made later has none of the checkpoints."""

    async def aput(self, *args: Any) -> Any:
        pickle.dumps("a checkpoint")
        return await super().aput(*args)

    async def alist(self, *args: Any, **kwargs: Any) -> Any:
        for nothing in ():
            yield nothing


class Forgetful(Threads):
    """Claims a store and lifetimes, and keeps everything in the memory of one saver for ever."""

    title = "forgetful"
    distributions = ()

    async def saver(self, setting: Setting) -> Any:
        return ForgetfulSaver()

    def plain_saver(self, setting: Setting) -> Any:
        raise NotImplementedError


class Modules(Forgetful):
    """Needs a module of the server."""

    async def saver(self, setting: Setting) -> Any:
        from valkey import Valkey

        with Valkey.from_url(setting.valkey_url) as client:
            client.execute_command("FT.INFO", "checkpoint")
