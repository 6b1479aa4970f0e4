"""Applications: a warning where two of them use the default name on one Valkey.

Caches of one name share their entries. A key of a kv tier is chosen by the application, so two applications that both
keep the default name read each other's values. Each process keeps a member in the sorted set ``{name}:__tc:alive``,
scored with its expiry by the server's clock. The member begins with a digest of the program, so that a process
recognises the members of other programs.
"""

from __future__ import annotations

import os
import secrets
import sys
from hashlib import sha256
from typing import Final

from ..engine.level2.level2 import Level2
from ..engine.level2.replies import send
from ..errors import TierCacheError
from ..log import CacheLog

__all__ = ["DEFAULT_NAME", "new_member", "program_digest", "warn_of_other_application"]

DEFAULT_NAME: Final = "betterdb_ac"


def program_digest(main: object, folder: str) -> str:
    """Return 8 hex characters for a program, or "" for an interactive session or ``python -c``, which have no file.

    Args:
        main: The module ``__main__``.
        folder: The working folder. It tells applications apart that one launcher starts, such as uvicorn.
    """
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    program = file if spec is None else spec.name
    return "" if program is None else sha256(f"{program}\n{folder}".encode(errors="replace")).hexdigest()[:8]


def _this_program() -> str:
    try:
        return program_digest(sys.modules.get("__main__"), os.getcwd())
    except OSError:
        return ""  # The working folder was removed.


def new_member() -> str:
    """Return a random member for this process: the digest of its program, ``-``, and 16 hex characters."""
    return f"{_this_program()}-{secrets.token_hex(8)}"


async def warn_of_other_application(level2: Level2, alive: str, log: CacheLog) -> None:
    """Log a warning, once, if a process of another program is alive under the same name.

    Args:
        alive: The key of the sorted set.
    """
    own = _this_program()
    if not own:
        return
    try:
        (now, _), members = await send(level2, [("TIME",), ("ZRANGE", alive, 0, -1, "WITHSCORES")])
    except TierCacheError:
        return  # The caller has read Valkey before, and has counted and logged a failure.
    for member, expiry in zip(members[::2], members[1::2], strict=True):
        digest, _, rest = member.decode(errors="replace").partition("-")
        # A member without ``-`` is of a version that did not write the digest.
        if rest and digest not in ("", own) and float(expiry) > int(now):
            log.warn_once(
                "another program uses the default name on this Valkey, and both read each other's kv entries: "
                'give each application a name of its own, AgentCache(..., name="...")'
            )
            return
