"""Letting go of a start that is owed, and what is owed, as the ledger has it; beside a daemon or without one."""

from __future__ import annotations

import getpass
import platform
from datetime import UTC, datetime

from snaprotd.commands.jobs.now import id_in
from snaprotd.config.settings import Config
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import Json, zulu
from snaprotd.ledger.address import name_of
from snaprotd.report.rows import owed_row
from snaprotd.wiring.assembly import open_ledger_to_read


async def leave_off(config: Config, name: str, reason: str) -> str | None:
    """Let go of what is owed to the named server: what is noted about that; None where nothing is owed.

    Raises `UnknownServer` for a name that neither the configuration nor the ledger has.
    """
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            where = name_of(config.state)
            raise SnaprotdError(f"there is no ledger at {where}: no daemon has run with {config.path} here")
        words = f"{_who()} at {zulu(datetime.now(UTC))}"
        if why := _in_one_line(reason):
            words += f": {why}"
        kept = await ledger.starts.let_go(await id_in(ledger, config, name), words)
        return words if kept else None


async def read_owed(config: Config) -> list[Json]:
    """The servers that a start is owed to, with since when and why."""
    async with open_ledger_to_read(config) as ledger:
        owed = [] if ledger is None else await ledger.starts.owed()
    return [owed_row(one) for one in owed]


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{platform.node()}"


def _in_one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
