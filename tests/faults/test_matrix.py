"""Every operation under every fault has an expected outcome, and every cache recovers by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tiercache
from tests.faults.expected import ALWAYS, EXPECTED
from tests.faults.faults import FAULTS, Fault, HalfOpen, NoFault, SlowerDrip
from tests.faults.operations import KINDS, OPERATIONS
from tests.faults.outcomes import Outcome
from tests.faults.rights import COMMANDS, RIGHTS
from tests.faults.run import Cell, run_under, wrong_cells
from tiercache.options import TrackingMode

# Commands of the administrator, and commands with which valkey-py begins a connection.
_OTHER_COMMANDS = {"acl", "auth", "client|list", "config|get", "hello", "select"}

# The kinds of tracking use connections differently, and these faults make connections late.
LATE: tuple[type[Fault], ...] = (HalfOpen, SlowerDrip)


def _names(faults: tuple[type[Fault], ...]) -> list[str]:
    return [fault.name for fault in faults]


@pytest.mark.parametrize("fault", FAULTS, ids=_names(FAULTS))
async def test_fault_has_expected_outcomes_and_leaves_nothing_behind(fault: type[Fault]) -> None:
    assert not (wrong := wrong_cells(fault, await run_under(fault))), "\n".join(wrong)


@pytest.mark.parametrize("tracking", ["interest", "broadcast"])
@pytest.mark.parametrize("fault", LATE, ids=_names(LATE))
async def test_fault_has_the_same_outcomes_with_each_kind_of_tracking(
    fault: type[Fault], tracking: TrackingMode
) -> None:
    assert not (wrong := wrong_cells(fault, await run_under(fault, tracking))), "\n".join(wrong)


@pytest.mark.parametrize("reconnects", [False, True], ids=["connected", "reconnecting"])
@pytest.mark.parametrize("right", RIGHTS, ids=_names(RIGHTS))
async def test_fault_of_permission_has_expected_outcomes(right: type[Fault], reconnects: bool) -> None:
    fault = type(right.__name__, (right,), {"disconnects": reconnects})
    assert not (wrong := wrong_cells(right, await run_under(fault))), "\n".join(wrong)


async def test_fault_matrix_takes_the_right_to_every_command_of_a_cache() -> None:
    sent: set[str] = set()

    class Recorded(NoFault):
        async def end(self) -> None:
            sent.update(name.removeprefix("cmdstat_") for name in self.admin.info("commandstats"))

    await run_under(Recorded)
    assert {"get", "set", "eval", "subscribe", "client|tracking"} <= sent
    assert sorted(sent - set(COMMANDS) - _OTHER_COMMANDS) == []


def test_fault_matrix_takes_the_right_to_every_command_of_a_script() -> None:
    scripts = [path.read_text("utf-8") for path in Path(tiercache.__file__).parent.rglob("*.lua")]
    called = {name.lower() for script in scripts for name in re.findall(r"redis\.p?call\(\s*'(\w+)'", script)}
    assert len(called) > 20
    assert sorted(called - {command.partition("|")[0] for command in COMMANDS}) == []


def test_fault_matrix_has_a_row_for_each_fault_and_a_cell_for_each_kind() -> None:
    names = _names((*FAULTS, *RIGHTS))
    assert len(names) == len(set(names))
    assert set(names) == set(EXPECTED)
    keys = {*KINDS, *(operation.name for operation in OPERATIONS)}
    for row in EXPECTED.values():
        assert set(KINDS) <= set(row) <= keys
        assert all(row[kind] == outcomes for kind, outcomes in ALWAYS.items())


def test_fault_matrix_check_notices_wrong_outcome() -> None:
    check = next(operation for operation in OPERATIONS if operation.name == "check of llm")
    good = [Cell(check, Outcome.VALUE)]
    assert not wrong_cells(NoFault, good)
    assert not wrong_cells(next(fault for fault in FAULTS if fault.name == "FLUSHALL"), [Cell(check, Outcome.UNMARKED)])
    for outcome in (Outcome.MISS, Outcome.UNMARKED, Outcome.REFUSED, "raised KeyError: 'x'"):
        assert wrong_cells(NoFault, [*good, Cell(check, outcome)]) == [f"check of llm: {outcome}, and not value"]
