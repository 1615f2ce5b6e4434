"""Servers and snapshots for tests, in the provider's words."""

from __future__ import annotations

from datetime import datetime
from math import inf

from snaprotd.core.model import Server, Snapshot
from snaprotd.provider.vps_org import answers


def a_server(number: int | str = 12345, name: str = "web-01", status: str = "active") -> Server:
    return Server(id=str(number), ref=number, name=name, state=answers.server_state(status), status=status)


def a_snapshot(
    number: int | str,
    name: str,
    created_at: datetime | None,
    *,
    server_id: str = "12345",
    server_name: str = "web-01",
    status: str = "completed",
    size_mb: int | None = None,
) -> Snapshot:
    return Snapshot(
        id=str(number),
        server_id=server_id,
        server_name=server_name,
        name=name,
        state=answers.snapshot_state(status),
        status=status,
        size_mb=size_mb,
        created_at=created_at,
        unchanged_for=inf,
    )
