"""The commands about starts that are owed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from snaprotd.commands.common import (
    as_json,
    begin,
    complain,
    config_path,
    load,
    print_json,
    server_argument,
    wait_for,
    with_config,
)
from snaprotd.commands.jobs.status_client import refuse_another_ledger
from snaprotd.commands.text.terminal import tell
from snaprotd.core.errors import ConfigError, LedgerError
from snaprotd.core.words import count

if TYPE_CHECKING:
    from snaprotd.commands.jobs.leave_off import Owed


@click.command(name="leave-off", short_help="Let go of a start that is owed: the server stays off.")
@server_argument()
@with_config
@click.option("--reason", default="", metavar="TEXT", help="Why, for `snaprotd history`.")
def leave_off(server: str, path: str | None, reason: str) -> int:
    """Let go of the start that is owed to SERVER: snaprotd stopped it, and will not start it.

    \b
    Example:
      snaprotd leave-off web-01 --reason "its disk is being replaced"

    Who did so, when and why is kept, and shown by `snaprotd history SERVER`. A rotation that is open ends without a
    start. The next rotation whose policy stops the server owes it a start again: pause it to have none.
    """
    from snaprotd.commands.jobs.leave_off import leave_off as let_go

    begin()
    settings = load(path)
    refuse_another_ledger(settings)
    noted = wait_for(let_go(settings, server, reason))
    if noted is None:
        tell(f"Nothing is owed to {server}: there was nothing to let go of.")
    else:
        tell(f"Let go: snaprotd will not start {server} for the stop that it asked for. Noted: {noted}")
    return 0


@click.group()
def ledger() -> None:
    """Look into the ledger.

    \b
    Example:
      snaprotd ledger owed
    """


@ledger.command()
@with_config
@as_json
def owed(path: str | None, as_json: bool) -> int:
    """Show the servers that a start is owed to, and those that are watched since they were started.

    \b
    Example:
      snaprotd ledger owed --json

    From the ledger: no daemon is needed. A file that is refused is told of in the end.
    """
    from snaprotd.commands.jobs.leave_off import read_owed, read_owed_of_all

    begin()
    place, refused = config_path(path), None
    try:
        found = wait_for(read_owed_of_all(place, os.environ, load(path)))
    except ConfigError as error:  # it does not hide what is owed, any more than it keeps the daemon from paying it
        found, refused = read_owed(place, os.environ, None), error
    _show_owed(found, as_json=as_json, whatever_is_found=refused is not None)
    if refused is not None:
        for sentence in found.unreadable:
            complain(sentence)
        raise refused
    if found.unreadable:
        more = "this may not be all that is owed: " if found.rows else ""
        raise LedgerError(more + "; ".join(found.unreadable))
    return 0


@ledger.command()
@with_config
@as_json
def show(path: str | None, as_json: bool) -> int:
    """Show where the ledger is, its schema and size, what it holds, and which processes have rotations open in it.

    \b
    Example:
      snaprotd ledger show
    """
    from snaprotd.commands.jobs.ledgers import overview, overview_json

    begin()
    found = wait_for(overview(load(path)))
    if as_json:
        print_json(overview_json(found))
        return 0
    tell(f"ledger   {found.name}")
    tell(f"schema   {found.schema}")
    tell(f"size     {found.size / 1024:.0f} KiB")
    tell("rows     " + ", ".join(f"{number} {table}" for table, number in found.rows.items()), indent=9)
    for one in found.holders:
        until = datetime.fromtimestamp(one.until, UTC)
        tell(f"process  {one.owner}: {count(one.rotations, 'open rotation')}, until {until:%Y-%m-%d %H:%M:%S} UTC")
    return 0


@ledger.command()
@with_config
@click.option(
    "--from", "source", required=True, metavar="STATE", help="As `state` names it: a file, or postgresql://..."
)
@click.option("--to", "target", required=True, metavar="STATE", help="The same; it must hold nothing yet.")
def copy(path: str | None, source: str, target: str) -> int:
    """Copy all of one ledger into another one, as when it is to be on PostgreSQL from now on.

    \b
    Example:
      snaprotd ledger copy --from /var/lib/snaprotd/state.db --to postgresql://snaprotd@db/snaprotd

    No daemon may use either. Afterwards name the other one with `state`.
    """
    from snaprotd.commands.jobs.ledgers import copy as copied

    begin()
    rows = wait_for(copied(load(path), os.environ, source, target))
    tell("Copied: " + ", ".join(f"{number} {table}" for table, number in rows.items()) + ".")
    return 0


def _show_owed(found: Owed, *, as_json: bool, whatever_is_found: bool) -> None:
    if as_json:
        print_json(found.rows)
    for row in () if as_json else found.rows:
        tell(f"{row['server_id']}  since {row['since']}  {row['why']}")
    if found.missing and not (whatever_is_found and found.told):
        places = ", ".join(map(str, found.missing))
        tell(f"There is no ledger at {places}: what it would owe is not known.", err=as_json)
    elif not (found.rows or found.unreadable or as_json):
        tell("Nothing is owed.")
