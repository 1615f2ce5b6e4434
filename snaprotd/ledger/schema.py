"""The ledger's tables, and how a ledger of an older version is brought to them."""

from __future__ import annotations

from sqlalchemy import (
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
    insert,
    select,
)

from snaprotd.core.errors import LedgerError

SCHEMA_VERSION = 1

TABLES = MetaData()

META = Table("meta", TABLES, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

ROTATIONS = Table(
    "rotations",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("server_id", String(64), nullable=False),
    Column("slot", String(32), nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("result", String(16)),
    Column("body", Text, nullable=False),
    Column("owner", String(64)),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    UniqueConstraint("server_id", "slot", name="one_rotation_for_a_slot"),
)
Index(
    "one_open_rotation_for_a_server",
    ROTATIONS.c.server_id,
    unique=True,
    sqlite_where=ROTATIONS.c.is_open,
    postgresql_where=ROTATIONS.c.is_open,
)
Index("rotations_by_time", ROTATIONS.c.started_at)
Index("rotations_by_end", ROTATIONS.c.finished_at)

MARKS = Table(
    "marks",
    TABLES,
    Column("server_id", String(64), primary_key=True),
    Column("seen_until", String(32), nullable=False),
    Column("schedule", Text, nullable=False),
)


def migrate(connection: Connection) -> None:
    """Bring the schema to `SCHEMA_VERSION`, in one transaction.

    A later version adds its step here: `if version < 2: ...`. A ledger written by a newer snaprotd is refused.
    """
    META.create(connection, checkfirst=True)
    written = str(connection.scalar(select(META.c.value).where(META.c.key == "schema")) or 0)
    if not written.isdecimal():
        raise LedgerError(f"the ledger has schema `{written}`, which is no number: this is no ledger of snaprotd's")
    version = int(written)
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"the ledger has schema {version}, this snaprotd knows up to {SCHEMA_VERSION}: "
            "it was written by a newer snaprotd; upgrade, or point `state` to another file"
        )
    if version < 1:
        TABLES.create_all(connection)
        connection.execute(insert(META).values(key="schema", value=str(SCHEMA_VERSION)))
