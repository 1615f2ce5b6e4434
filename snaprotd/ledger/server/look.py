"""What can be seen of a database server without changing anything there: for whoever sets it up."""

from __future__ import annotations

from dataclasses import dataclass

from snaprotd.ledger.address import ServerAddress, name_of
from snaprotd.ledger.server.place import MAY_USE, told
from snaprotd.ledger.server.session import MAY_TELL_ORIGIN, Session
from snaprotd.ledger.sql.prepared import Statement

_SEEN = Statement(
    "SELECT current_setting('server_version') AS version, current_schema() AS schema,"
    " NOT pg_is_in_recovery() AS can_write,"  # what a role's settings say of it is not asked: transactions are told
    f" ({MAY_USE}) AS may_use,"
    " current_setting('synchronous_commit') AS waits_for,"
    " current_setting('synchronous_standby_names') AS standbys,"
    " to_regclass('meta') IS NOT NULL AS has_ledger,"
    f" ({MAY_TELL_ORIGIN}) AS tells_origin,"
    " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS can_make"
)


@dataclass(frozen=True, kw_only=True)
class Look:
    version: str
    can_write: bool
    """It is no standby."""
    may_use: bool
    """The role may read and write all tables that are there."""
    has_ledger: bool
    can_make: bool
    """The tables of one."""
    tells_failover: bool
    """The role may see whether another server is in its place."""
    outlives_its_machine: bool
    """A commit is on another machine too before it is answered."""


async def look_at(address: ServerAddress) -> Look:
    """Raises `LedgerError` where it cannot be reached."""
    with told(name_of(address.url)):
        session = await Session.begin(address)
        try:
            row = (await session.ask(_SEEN)).first()
        finally:
            session.end()
    waits = row.waits_for not in ("local", "off") or (row.waits_for == "off" and bool(row.standbys))
    return Look(
        version=row.version.split(" ")[0],
        can_write=row.can_write,
        may_use=row.may_use,
        has_ledger=row.has_ledger,
        can_make=row.can_make,
        tells_failover=row.tells_origin,
        outlives_its_machine=bool(row.standbys) and waits,
    )
