"""The command that tells what was: rotations, and all that has happened, from the ledger."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import click
from rich.text import Text

from snaprotd.commands.common import (
    as_json,
    begin,
    load,
    print_json,
    server_argument,
    tell_what_is_forsaken,
    wait_for,
    with_config,
)
from snaprotd.commands.text.tables import events_text, history_text
from snaprotd.commands.text.terminal import show
from snaprotd.core.words import read_duration
from snaprotd.report.rows import history_row, shown


class Since(click.ParamType[datetime]):
    """`7d`, `2025-01-16` or `2025-01-16T03:30:00Z`, which is UTC where it names no zone."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        text, now = str(value), datetime.now(UTC)
        try:
            if (length := read_duration(text)) is not None:
                return now - min(length, now - FIRST)
            if len(text) == len("2025-01-16"):
                return datetime.combine(date.fromisoformat(text), time(), UTC)
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(f"`{text}` is neither a duration such as 7d nor a date such as 2025-01-16.", param, ctx)


FIRST = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing was before it."""


@click.command()
@server_argument(required=False)
@with_config
@click.option("--server", "named", metavar="SERVER", help="The same as SERVER.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many to show.")
@click.option("--events", is_flag=True, help="All events, not only rotations.")
@click.option("--since", metavar="7d", type=Since(), help="Only those since then: a duration, or a date in UTC.")
@as_json
def history(
    server: str | None,
    named: str | None,
    path: str | None,
    limit: int,
    events: bool,
    since: datetime | None,
    as_json: bool,
) -> int:
    """Show the last rotations, newest first, from the ledger; or all that has happened.

    \b
    Example:
      snaprotd history web-01 --limit 50
      snaprotd history --events --since 7d

    Events are the ends of attempts, deletions with their reasons, what persons did and who they were, slots that were
    late or missed, new configurations, and what people were told of.
    """
    from snaprotd.commands.jobs.past import read_events, read_history, read_let_go  # their library takes a while

    begin()
    if server is not None and named is not None and server != named:
        raise click.UsageError(f"Two servers are named: {server} and {named}.")
    server = server or named
    settings = load(path)
    if events:
        entries = wait_for(read_events(settings, server, since, limit))
        if as_json:
            print_json([shown(entry.as_json()) for entry in entries])
        else:
            show(events_text(entries))
        tell_what_is_forsaken(settings, path)
        return 0
    rotations = wait_for(read_history(settings, server, limit))
    rotations = [one for one in rotations if since is None or one.started_at >= since]
    if as_json:
        print_json([history_row(rotation) for rotation in rotations])
    else:
        show(history_text(rotations))
        if server is not None and (let_go := wait_for(read_let_go(settings, server))):
            show(Text(f"A start of {server} was let go by {let_go}"))
    tell_what_is_forsaken(settings, path)
    return 0
