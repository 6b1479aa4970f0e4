"""The tables of ``docs/reliability.md``, made from the expected outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.docs.pages import DOCS
from tests.faults.expected import EXPECTED, WORKS, Row
from tests.faults.faults import FAULTS
from tests.faults.outcomes import Outcome
from tests.faults.rights import RIGHTS

__all__ = ["PAGE", "tables_in", "updated"]

PAGE: Final[Path] = DOCS / "reliability.md"

# The columns: a title, and the kinds of operations below it, each with its name on the page.
_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "lookups": {"check": "`check`", "get_many": "`get_many`"},
    "loads": {"get_or_load": "`get_or_load`", "get_or_load_many": "`get_or_load_many`"},
    "stores": {"store": "`store`", "set": "`set`", "set_many": "`set_many`"},
    "removals": {"invalidate": "`invalidate`", "delete_many": "`delete_many`"},
    "groups": {"invalidate_by": "`invalidate_by_*`", "invalidate_tag": "`invalidate_tag`", "clear": "`clear`"},
    "session reads": {"session.get": "`session.get`", "session.get_all": "`session.get_all`"},
    "session changes": {
        "session.set": "`session.set`",
        "session.append": "`session.append`",
        "session.incr": "`session.incr`",
        "session.compare_and_set": "`compare_and_set`",
        "session.delete": "`session.delete`",
        "session.touch": "`session.touch`",
        "session.destroy": "`destroy_thread`",
    },
    "`explain`": {"explain": "`explain`"},
    "`stats`": {"stats": "`stats`"},
    "`set_policy`": {"set_policy": "`set_policy`"},
}
_NAMES: Final = {kind: name for kinds in _COLUMNS.values() for kind, name in kinds.items()}
_TABLE: Final = re.compile(r"(?<=<!-- (?P<name>faults|rights): begin -->\n).*?(?=<!-- (?P=name): end -->)", re.DOTALL)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cell(row: Row, kinds: Mapping[str, str]) -> str:
    """Return the outcome of most of ``kinds``, and then the other outcomes with the names of their kinds."""
    by_outcome: dict[str, list[str]] = {}
    for kind, name in kinds.items():
        by_outcome.setdefault(" or ".join(sorted(row[kind])), []).append(name)
    (first, _), *others = sorted(by_outcome.items(), key=lambda item: -len(item[1]))
    return "; ".join([first, *(f"{outcome}: {', '.join(names)}" for outcome, names in others)])


def _faults() -> str:
    rows = [(fault.name, *(_cell(EXPECTED[fault.name], kinds) for kinds in _COLUMNS.values())) for fault in FAULTS]
    lines = [("fault", *_COLUMNS), ["---"] * (len(_COLUMNS) + 1), *rows]
    return "".join(map(_line, lines))


def _affected(row: Row, outcome: Outcome) -> str:
    """Return the names of the operations that have ``outcome`` in ``row``."""
    names = []
    for key, outcomes in row.items():
        kind, _, tier = key.partition(" of ")
        if outcome in outcomes and outcomes != WORKS.get(kind):
            names.append(f"{_NAMES[kind]}{f' of {tier}' if tier else ''}")
    return ", ".join(names) or "none"


def _rights() -> str:
    columns = (Outcome.DEGRADED, Outcome.REFUSED)
    rows: list[Sequence[str]] = []
    harmless: list[str] = []
    for right in RIGHTS:
        row = EXPECTED[right.name]
        if row == WORKS:
            harmless.append(right.name)
        else:
            rows.append((right.name, *(_affected(row, outcome) for outcome in columns)))
    rows.append((", ".join(harmless), "none", "none"))
    return "".join(map(_line, [("right taken away", "degraded", "refused"), ["---"] * 3, *rows]))


def updated(page: str) -> str:
    """Return the text of the page with its tables as the data have them."""
    tables = {"faults": _faults(), "rights": _rights()}
    return _TABLE.sub(lambda match: f"\n{tables[match['name']]}\n", page)


def tables_in(page: str) -> list[str]:
    """Return the names of the tables that have their place on the page."""
    return [match["name"] for match in _TABLE.finditer(page)]
