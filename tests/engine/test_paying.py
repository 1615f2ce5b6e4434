"""What keeps a start that is due from being asked for, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from snaprotd.core.errors import Temporary
from snaprotd.core.model import Server, ServerState, Snapshot, SnapshotState
from snaprotd.core.power import Power
from snaprotd.core.rotation import Outcome
from snaprotd.engine.starts.paying import pay

NOW = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
OFF = Server(id="12345", ref="12345", name="web", status="stopped", state=ServerState.STOPPED)


def a_snapshot(state: SnapshotState) -> Snapshot:
    return Snapshot(id="7", server_id="12345", server_name="web", name="theirs", state=state, status=str(state))


IN_PROGRESS, COMPLETED = (a_snapshot(state) for state in (SnapshotState.IN_PROGRESS, SnapshotState.COMPLETED))


async def asked_of(debtor: dict[str, Any], *, snapshots: Any, replicas: object) -> tuple[list[str], Outcome]:
    """What a visit asks of a server that is off and owed a start, and its outcome."""
    asked: list[str] = []

    async def listed(*_: object, **__: object) -> Any:
        if isinstance(snapshots, Exception):
            raise snapshots
        return snapshots

    async def ask(_: Server, action: str, **__: object) -> None:
        asked.append(action)

    async def shown(_: str) -> Server:
        return OFF

    async def saved(_: object) -> bool:
        return False

    tools = SimpleNamespace(
        ledger=SimpleNamespace(replicas=replicas),
        inventory=SimpleNamespace(snapshots=listed),
        cloud=SimpleNamespace(power=ask),
        poll_interval=15.0,
        now=lambda: NOW,
    )
    each: Any = SimpleNamespace(
        tools=tools,
        server_id="12345",
        ids={"12345"},
        instance="main",
        power=Power(asked=1, went_off=True),
        look=lambda _: None,
        look_for=shown,
        save_power_if_possible=saved,
        update_power=lambda _: None,
        guard=None,
        **{"is_cut_off": True, "start_is_overdue": False, **debtor},
    )
    outcome = await pay(each)
    return asked, outcome


async def test_cut_off_from_a_ledger_of_several_a_start_waits_for_the_snapshot_that_may_be_anothers() -> None:
    asked, outcome = await asked_of({}, snapshots=[COMPLETED, IN_PROGRESS], replicas=object())
    assert asked == []
    assert "in progress" in str(outcome)


@pytest.mark.parametrize(
    ("debtor", "snapshots", "replicas"),
    [
        pytest.param({"is_cut_off": False}, [IN_PROGRESS], object(), id="the ledger was read: nobody else is at work"),
        pytest.param({"start_is_overdue": True}, [IN_PROGRESS], object(), id="not for ever"),
        pytest.param({}, [IN_PROGRESS], None, id="a file that cannot be read is nobody else's"),
        pytest.param({}, [COMPLETED], object(), id="there is none"),
        pytest.param({}, Temporary("no answer"), object(), id="what cannot be read keeps nothing waiting"),
    ],
)
async def test_nothing_else_keeps_a_start_waiting(debtor: dict[str, Any], snapshots: Any, replicas: object) -> None:
    assert (await asked_of(debtor, snapshots=snapshots, replicas=replicas))[0] == ["start"]
