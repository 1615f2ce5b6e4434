"""The ledger's tables, and how a ledger of an older version is brought to them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import (
    DDL,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
)

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.sql.dialects import names_of_tables

SCHEMA_VERSION = 5

WITH_LONG_CHANNELS = 5
"""The version from which on the name of a channel, which has a path in it, may be as long as it likes on PostgreSQL."""

READABLE_BY = 2
"""The lowest version of the schema that a snaprotd must know to use a ledger as this one writes it."""

READABLE_WITH_HOLDS = 3
"""The same, once somebody has held a snapshot: who knows no holds would delete it."""

TABLES = MetaData()

META = Table("meta", TABLES, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

ROTATIONS = Table(
    "rotations",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("account", String(255), nullable=False, server_default=""),
    Column("server_id", String(64), nullable=False),
    Column("slot", String(32), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("format", Integer, nullable=False, server_default="1"),
    Column("needs", Integer, nullable=False, server_default="1"),
    Column("is_open", Boolean, nullable=False),
    Column("result", String(16)),
    Column("body", Text, nullable=False),
    Column("owner", String(64)),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("renewals", Integer, nullable=False, server_default="0"),
    Column("lease", Float, nullable=False, server_default="0"),
    Column("started_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    UniqueConstraint("account", "server_id", "slot", "attempt", name="one_rotation_for_an_attempt"),
)
Index(
    "one_open_rotation_for_a_server",
    ROTATIONS.c.account,
    ROTATIONS.c.server_id,
    unique=True,
    sqlite_where=ROTATIONS.c.is_open,
    postgresql_where=ROTATIONS.c.is_open,
)
event.listen(  # SQLite has a number of its own for each row
    ROTATIONS,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "ALTER TABLE rotations ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY"
    ).execute_if(dialect="postgresql"),
)
Index("rotations_by_time", ROTATIONS.c.started_at)
Index("rotations_by_end", ROTATIONS.c.finished_at)

POWERS = Table(
    "powers",
    TABLES,
    Column("account", String(255), primary_key=True),
    Column("server_id", String(64), primary_key=True),
    Column("label", String(255), nullable=False),
    Column("asked", Integer, nullable=False),
    Column("released", Integer, nullable=False),
    Column("is_followed", Boolean, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("token_file", Text, nullable=False),
    Column("let_go", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""The power of each server that we have touched. What is owed stands in columns of its own: they can be read where the
body, which has the rest, cannot."""

MARKS = Table(
    "marks",
    TABLES,
    Column("server_id", String(64), primary_key=True),
    Column("seen_until", String(32), nullable=False),
    Column("schedule", Text, nullable=False),
)

HOLDS = Table(
    "holds",
    TABLES,
    Column("account", String(255), primary_key=True),
    Column("snapshot_id", String(255), primary_key=True),
    Column("server_id", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("ids", Text, nullable=False),
    Column("until", String(10), nullable=False),
)
"""What a person has said last of a snapshot: its last day in UTC, `0001-01-01` where it is let go. It stays for as long
as the snapshot may exist, for it may have to count before a name."""

EVENTS = Table(
    "events",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("account", String(255), nullable=False, server_default=""),
    Column("at", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("server_id", String(64)),
    Column("by", String(255)),
    Column("text", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("key", Text, unique=True),
    sqlite_autoincrement=True,  # an id is never given twice, whatever was forgotten
)
Index("events_by_server", EVENTS.c.server_id, EVENTS.c.id)

LETTERS = Table(
    "letters",
    TABLES,
    Column("channel", Text, primary_key=True),
    Column("message_id", String(64), primary_key=True),
    Column("since", String(32), nullable=False),
    Column("body", Text, nullable=False),
)
"""The outbox: what waits to be sent."""

SEEN = Table(
    "seen",
    TABLES,
    Column("account", String(255), primary_key=True),
    Column("server_id", String(64), primary_key=True),
    Column("snapshots", Text, nullable=False),
)
"""The completed snapshots of ours that were seen last of each server."""

MATCHED = Table(
    "matched",
    TABLES,
    Column("account", String(255), primary_key=True),
    Column("server_id", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)
"""The servers that a `match` has found, and those of them that none finds any more."""

REPLICAS = Table(
    "replicas",
    TABLES,
    Column("id", String(64), primary_key=True),
    Column("beat", Integer, nullable=False),
    Column("version", String(64), nullable=False),
    Column("config", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("host", String(255), nullable=False),
    Column("body", Text, nullable=False),
)
"""The processes that share a ledger on a server, as long as they live. A file's has none."""

ROLES = Table(
    "roles",
    TABLES,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("epoch", Integer, nullable=False),
)
"""What one replica does for all. `epoch` is raised with each that takes it. The row `generation` is none of these: its
epoch is the highest generation of a configuration that there ever was."""

OF_PROCESSES = (REPLICAS, ROLES)
"""What says nothing where no process uses the ledger."""


def migrate(connection: Connection) -> None:
    """Bring the schema to `SCHEMA_VERSION`, in one transaction.

    A ledger that a newer snaprotd wrote is used as it is where its `readable_by` allows that, else it is refused.
    """
    META.create(connection, checkfirst=True)
    version = _number(connection, "schema", 0)
    if version > SCHEMA_VERSION:
        _refuse_unreadable(connection, version)
        return
    if version == 1:
        _from_1(connection)
    _add_columns(connection)
    TABLES.create_all(connection)  # one that was dropped is made again
    if 0 < version < WITH_LONG_CHANNELS and connection.dialect.name == "postgresql":  # SQLite minds no length
        connection.execute(text("ALTER TABLE letters ALTER COLUMN channel TYPE text"))
    if version < SCHEMA_VERSION:
        readable_by = max(READABLE_BY, _number(connection, "readable_by", READABLE_BY))  # a hold may have raised it
        for key, value in (("schema", SCHEMA_VERSION), ("readable_by", readable_by)):
            connection.execute(delete(META).where(META.c.key == key))
            connection.execute(insert(META).values(key=key, value=str(value)))


def is_current(connection: Connection) -> bool:
    """Whether nothing is to be done to it, as far as can be read. Raises what `migrate` raises."""
    names = connection.execute(names_of_tables()).scalars().all()
    if META.name not in names or (version := _number(connection, "schema", 0)) < SCHEMA_VERSION:
        return False
    if version > SCHEMA_VERSION:
        _refuse_unreadable(connection, version)
    return not is_short(names)


def is_short(names: Collection[str]) -> bool:
    """Whether a table was dropped, where these are there."""
    return not TABLES.tables.keys() <= set(names)


def _number(connection: Connection, key: str, default: int) -> int:
    written = str(connection.scalar(select(META.c.value).where(META.c.key == key)) or default)
    if not written.isdecimal():
        raise LedgerError(f"the ledger has {key} `{written}`, which is no number: this is no ledger of snaprotd's")
    return int(written)


def _refuse_unreadable(connection: Connection, version: int) -> None:
    readable_by = _number(connection, "readable_by", version)
    if readable_by > SCHEMA_VERSION:
        raise LedgerError(
            f"the ledger has schema {version}, this snaprotd knows up to {SCHEMA_VERSION}: "
            "it was written by a newer snaprotd; upgrade, or point `state` to another file"
        )


def _from_1(connection: Connection) -> None:
    """The rotations' table is made anew, for its unique key has grown; no row is lost."""
    connection.execute(text("ALTER TABLE rotations RENAME TO rotations_1"))
    for name in ("one_open_rotation_for_a_server", "rotations_by_time", "rotations_by_end"):
        connection.execute(text(f"DROP INDEX IF EXISTS {name}"))
    ROTATIONS.create(connection)
    columns = "id, server_id, slot, is_open, result, body, owner, epoch, lease_until, started_at, finished_at"
    connection.execute(text(f"INSERT INTO rotations ({columns}) SELECT {columns} FROM rotations_1"))  # noqa: S608
    connection.execute(text("DROP TABLE rotations_1"))


def _add_columns(connection: Connection) -> None:
    """Those that the rotations of an older version lack. What tells of the version may have been dropped: they are
    looked for.
    """
    if not inspect(connection).has_table(ROTATIONS.name):
        return
    there = {column["name"] for column in inspect(connection).get_columns(ROTATIONS.name)}
    for name, kind in (("renewals", "INTEGER"), ("lease", "FLOAT")):
        if name not in there:
            connection.execute(text(f"ALTER TABLE rotations ADD COLUMN {name} {kind} DEFAULT 0 NOT NULL"))
