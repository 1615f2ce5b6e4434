"""The commands that change something."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click
import structlog
from rich.text import Text

from snaprotd.commands.common import (
    FAILED,
    as_json,
    begin,
    load,
    pay_before_telling,
    print_json,
    server_argument,
    wait_for,
    with_config,
)
from snaprotd.commands.jobs.status_client import refuse_another_ledger
from snaprotd.commands.text.tables import now_text
from snaprotd.commands.text.terminal import Say, is_answered, moving_line, show
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.rotation import STEPS, Result, Rotation, Step
from snaprotd.core.words import ago, clock, duration
from snaprotd.report.rows import outcome_of

if TYPE_CHECKING:
    from snaprotd.commands.jobs.by_hand import ByHand, Found
    from snaprotd.commands.jobs.now import Outlook


T = TypeVar("T")


@click.command()
@server_argument()
@with_config
@click.option("--description", default="", metavar="TEXT", help="A description to store with the snapshot.")
@click.option("--live", is_flag=True, help="Do not stop the server for it.")
@click.option("--yes", is_flag=True, help="Do not ask, and take it outside the policy's window too.")
@as_json
def now(server: str, path: str | None, description: str, live: bool, yes: bool, as_json: bool) -> int:
    """Run one rotation of SERVER at once, and wait for its end.

    \b
    Example:
      snaprotd now web-01 --description "before the upgrade"

    It does what the policy says: stops the server first where that is asked for, and deletes afterwards what is no
    longer kept. The snapshot falls under `keep` like any other. On a terminal it asks before it stops a server, and
    outside the policy's window; elsewhere it does nothing outside the window without --yes. It goes through the
    daemon's ledger, and refuses while a rotation of this server is open. Ctrl-C sees the server started again if it is
    held off; a second one ends at once.
    """
    from snaprotd.commands.jobs.now import look_ahead, rotate_now

    begin(never_wait=True)
    structlog.contextvars.clear_contextvars()
    settings = load(path)
    refuse_another_ledger(settings)
    asks = not yes and is_answered()
    outlook = _or_pay(look_ahead(settings, os.environ, server, live=live, looks_at_server=asks), path)
    if not yes and not _may_go_on(outlook, asks=asks):
        return FAILED
    with moving_line() as say:
        shown, target = _steps_shown(say), outlook.target
        work = rotate_now(settings, os.environ, target, description=description, show=shown, say=say.for_good)
        rotation = _or_pay(work, path)
    if as_json:
        print_json(outcome_of(rotation))
    else:
        show(now_text(rotation))
    return 0 if rotation.result is Result.SUCCESS else FAILED


def _or_pay(work: Coroutine[Any, Any, T], path: str | None) -> T:
    """What `work` answers. Where a mistake of ours ends it there may be no daemon that starts what is off."""
    try:
        return wait_for(work)
    except (SnaprotdError, KeyboardInterrupt):
        raise
    except Exception as error:
        pay_before_telling(error, path)


def _may_go_on(outlook: Outlook, *, asks: bool) -> bool:
    """Whether somebody wants what the rotation means for the server. `asks`: somebody can answer.

    Raises `SnaprotdError` where nobody can, and it is outside its window: a script's stop is what its author meant.
    """
    label, shut = outlook.target.label, outlook.shut
    if not asks:
        if shut:
            raise SnaprotdError(f"{label} is {shut}: nothing was done; --yes takes the snapshot all the same")
        return True
    if shut:
        click.echo(f"{label} is {shut}.", err=True)
    if outlook.stops:
        for_about = f" for about {duration(outlook.off_for)}, as its last ones were" if outlook.off_for else ""
        click.echo(f"{label} will be switched off{for_about}; --live takes the snapshot without that.", err=True)
    return not (shut or outlook.stops) or _is_wanted("Take the snapshot now?")


def _steps_shown(say: Say) -> Callable[[Rotation, float | None], None]:
    """Says at which step a rotation is, and how long they usually take."""
    shown = [step for step in STEPS if step is not Step.DONE]

    def tell(rotation: Rotation, usual: float | None) -> None:
        if rotation.step not in shown:
            return
        place = f"{shown.index(rotation.step) + 1}/{len(shown)} {rotation.step}"
        usually = f" (usually {duration(usual)} in all)" if usual is not None else ""
        say(f"{rotation.label}: {place}{': ' + rotation.note if rotation.note else ''}{usually}")

    return tell


@click.command()
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
            show(Text(_what_is_lost(chosen)))
            if not yes and not _is_confirmed(chosen.found):
                return FAILED
            with moving_line() as say:
                await chosen.restore(say)
            click.echo(f"{chosen.found.label} is active, restored from {chosen.found.snapshot.name}.")
            return 0

    return wait_for(work())


def _what_is_lost(chosen: ByHand) -> str:
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
    if found.newer is not None and found.newer.created_at is not None:
        newer = ago(found.newer.created_at.isoformat(), found.now)
        lines.append(f"WARNING: there is a newer one: snapshot {found.newer.id}, {found.newer.name}, {newer}")
    if not chosen.sees_ledger:
        lines.append("WARNING: there is no ledger here: it is not known whether a rotation of the server is going on")
    return "\n".join(lines)


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


@click.command()
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
            show(Text(f"Delete snapshot {snapshot.id}, {snapshot.name}, of server {found.label}, taken {age}."))
            if not yes and not _is_wanted("It cannot be undone. Delete it?"):
                return FAILED
            await chosen.delete()
            click.echo(f"Deleted {snapshot.name}.")
            return 0

    return wait_for(work())


def _is_wanted(question: str) -> bool:
    try:
        wanted = click.confirm(question, err=True)
    except click.Abort:  # the end of the input, or Ctrl-C
        wanted = False
        click.echo(err=True)
    if not wanted:
        click.echo("Nothing was done.", err=True)
    return wanted


COMMANDS = (now, restore, delete)
