"""The commands about starts that are owed."""

from __future__ import annotations

import click

from snaprotd.commands.common import as_json, begin, load, print_json, server_argument, wait_for, with_config
from snaprotd.commands.jobs.status_client import refuse_another_ledger


@click.command(name="leave-off")
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
        click.echo(f"Nothing is owed to {server}: there was nothing to let go of.")
    else:
        click.echo(f"Let go: snaprotd will not start {server} for the stop that it asked for. Noted: {noted}")
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
    """Show the servers that a start is owed to, from the ledger. No daemon is needed.

    \b
    Example:
      snaprotd ledger owed --json
    """
    from snaprotd.commands.jobs.leave_off import read_owed

    begin()
    rows = wait_for(read_owed(load(path)))
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        click.echo(f"{row['server_id']}  since {row['since']}  {row['why']}")
    if not rows:
        click.echo("Nothing is owed.")
    return 0


COMMANDS = (leave_off, ledger)
