"""What people ask of a ledger as a whole: whether its database is good, what it holds, and to have it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from snaprotd.config.settings import Config, ledger_file
from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import ServerAddress, is_on_server, name_of
from snaprotd.ledger.claims import Overview
from snaprotd.ledger.store import Ledger
from snaprotd.report.findings import Finding
from snaprotd.wiring.assembly import open_ledger, open_ledger_to_read
from snaprotd.wiring.channels import password_of


async def findings_of_database(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """What `check --online` has to say of the server that the ledger is on; nothing of a file. Changes nothing."""
    if not is_on_server(config.state):
        return []
    from snaprotd.ledger.server.look import look_at  # its driver may not be installed

    name = name_of(config.state)
    try:
        seen = await look_at(ServerAddress(config.state, password_of(config, environ)))
    except LedgerError as error:
        return [Finding(ok=False, text=str(error))]
    if not seen.can_write:
        return [
            Finding(
                ok=False,
                text=f"{name} answers, and cannot be written: it may be a standby. Name all hosts in `state`, with "
                f"target_session_attrs=read-write",
            )
        ]
    if not (seen.has_ledger or seen.can_make):
        return [Finding(ok=False, text=f"{name}: the role may not create tables there, and no ledger is there yet")]
    if not seen.may_use:
        text = (
            f"{name}: grant the role SELECT, INSERT, UPDATE and DELETE on all tables that are there: it may not use one"
        )
        return [Finding(ok=False, text=text)]
    found = [Finding(ok=True, text=f"{name}: PostgreSQL {seen.version} answers, and can be written")]
    if not seen.outlives_its_machine:
        text = (
            f"{name} waits for no standby: what was written last may be lost with that machine, the promise to start a "
            f"server too, where the daemon that made it is lost within minutes. `synchronous_standby_names` is for that"
        )
    else:
        text = f"{name} waits for a standby: no promise is lost with one machine"
    found.append(Finding(ok=True, note=True, text=text))
    if not seen.tells_failover:
        text = (
            f"{name}: the role may not see that another server has come in its place, and goes on at once then: grant "
            f"it EXECUTE on pg_control_system(), pg_walfile_name(pg_lsn) and pg_current_wal_lsn()"
        )
        found.append(Finding(ok=True, note=True, text=text))
    return found


async def overview(config: Config) -> Overview:
    """What the ledger holds. Raises `LedgerError` where there is none."""
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            raise LedgerError(f"there is no ledger at {name_of(config.state)}")
        return await ledger.overview()


def overview_json(found: Overview) -> dict[str, Any]:
    holders = [
        {"owner": one.owner, "rotations": one.rotations, "until": datetime.fromtimestamp(one.until, UTC).isoformat()}
        for one in found.holders
    ]
    return {"ledger": found.name, "schema": found.schema, "size": found.size, "rows": found.rows, "holders": holders}


class _ToFill(Ledger):
    """What copies beside it tell, of a ledger that was there before, is joined with what it is filled with: later."""

    @classmethod
    async def ready(cls, ledger: Ledger) -> Ledger:
        return ledger


async def copy(config: Config, environ: Mapping[str, str], source: str, target: str) -> Mapping[str, int]:
    """Copy all of one ledger into another, which holds nothing yet: how many rows of each table it has then.

    Raises `LedgerError` where either is in use, or the target is not empty.
    """
    if name_of(source) == name_of(target):
        raise LedgerError(f"{name_of(source)} is both: nothing was copied")

    def of(state: str) -> Config:
        return replace(config, state=state, ledger=ledger_file(state, config.path, environ))

    async with open_ledger_to_read(of(source)) as there:
        if there is None:
            raise LedgerError(f"there is no ledger at {name_of(source)}")
    async with await open_ledger(of(source), environ) as one:
        await one.demand_unused()  # before the other is made: an empty one would be taken for a ledger
        async with await open_ledger(of(target), environ, kind=_ToFill) as other:
            await other.demand_unused()
            return await other.fill(await one.contents())
