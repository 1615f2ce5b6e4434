"""The commands that a person does one thing to one snapshot with."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import click
from rich.text import Text

from snaprotd.commands.common import FAILED, begin, complain, load, wait_for, with_config
from snaprotd.commands.text.terminal import folded, is_wanted, moving_line, show
from snaprotd.core.holds import hold_in_words
from snaprotd.core.words import ago, clock

if TYPE_CHECKING:
    from snaprotd.commands.jobs.by_hand import ByHand, Found


@click.command(short_help="Overwrite a server with a snapshot; asks first.")
@click.argument("snapshot_id")
@with_config
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(snapshot_id: str, path: str | None, yes: bool) -> int:
    """Overwrite a server with the snapshot SNAPSHOT_ID, and wait until it is active.

    \b
    Example:
      snaprotd restore 801

    What will be lost is said first, and the server's name is asked for.
    """
    from snaprotd.commands.jobs.by_hand import by_hand

    begin()
    settings = load(path)

    async def work() -> int:
        async with by_hand(settings, os.environ, snapshot_id) as chosen:
            chosen.refuse_unless_completed()
            await chosen.refuse_if_busy()
            for line in _what_is_lost(chosen):
                show(Text(folded(line, sys.stdout, 10 if line.startswith(" ") else 2)))
            if not yes and not _is_confirmed(chosen.found):
                return FAILED
            try:
                with moving_line() as say:
                    await chosen.restore(say)
            except asyncio.CancelledError:
                complain(_LEFT.format(server=chosen.found.label))
                raise
            click.echo(f"{chosen.found.label} is active, restored from {chosen.found.snapshot.name}.")
            return 0

    return wait_for(work())


_LEFT = (
    "left: the provider goes on with what was asked of it. See in its panel when {server} is active again; "
    "no rotation of it begins within an hour"
)


def _what_is_lost(chosen: ByHand) -> list[str]:
    found, snapshot = chosen.found, chosen.found.snapshot
    taken, lost = "at an unknown time", "everything written since it was taken"
    if snapshot.created_at is not None:
        when = snapshot.created_at.isoformat()
        taken = f"{clock(when, found.timezone)}, {ago(when, found.now)}"
        lost = f"everything written since {clock(when, found.timezone)}"
    status = found.server.status if found.server else "not in the account"
    lines = [
        f"Restore server {found.label} (id {snapshot.server_id}) from snapshot {snapshot.id}, {snapshot.name}.",
        f"  taken   {taken}",
        f"  lost    {lost}, on the whole server; it cannot be undone",
        f"  server  {status}; the provider stops it, restores it and starts it, in 5 to 15 minutes",
    ]
    if found.hold is not None:
        lines.append(f"  hold    {hold_in_words(found.hold)}: no rotation deletes the snapshot before that")
    if found.newer is not None and found.newer.created_at is not None:
        newer = ago(found.newer.created_at.isoformat(), found.now)
        lines.append(f"WARNING: there is a newer one: snapshot {found.newer.id}, {found.newer.name}, {newer}")
    if chosen.why_unseen:
        lines.append(f"WARNING: {chosen.why_unseen}: it is not known whether a rotation of the server is going on")
    return lines


def _is_confirmed(found: Found) -> bool:
    try:
        typed = str(click.prompt(f"Type the server's name ({found.label}) to go on", err=True))
    except click.Abort:  # the end of the input, or Ctrl-C
        click.echo("\nNothing was done.", err=True)
        return False
    if not found.is_named(typed):
        click.echo("That is not the server's name: nothing was done.", err=True)
        return False
    return True


@click.command(short_help="Delete a snapshot, whoever made it; asks first.")
@click.argument("snapshot_id")
@with_config
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(snapshot_id: str, path: str | None, yes: bool) -> int:
    """Delete the snapshot SNAPSHOT_ID, whoever made it; never one in progress.

    \b
    Example:
      snaprotd delete 801
    """
    from snaprotd.commands.jobs.by_hand import by_hand

    begin()
    settings = load(path)

    async def work() -> int:
        async with by_hand(settings, os.environ, snapshot_id) as chosen:
            found, snapshot = chosen.found, chosen.found.snapshot
            chosen.refuse_to_delete_in_progress()
            taken = snapshot.created_at.isoformat() if snapshot.created_at else None
            age = ago(taken, found.now) if taken else "at an unknown time"
            held = f", {hold_in_words(found.hold)}" if found.hold is not None else ""
            show(Text(f"Delete snapshot {snapshot.id}, {snapshot.name}, of server {found.label}, taken {age}{held}."))
            if not yes and not is_wanted("It cannot be undone. Delete it?"):
                return FAILED
            try:
                await chosen.delete(complain)
            except asyncio.CancelledError:
                complain(
                    f"left: whether {snapshot.name} is deleted was not seen. `snaprotd list` shows it, if it is there"
                )
                raise
            click.echo(f"Deleted {snapshot.name}.")
            return 0

    return wait_for(work())
