"""The command `now`: what it asks beforehand, what it shows meanwhile, and what it tells in the end."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import structlog

from snaprotd.commands.common import (
    FAILED,
    as_json,
    begin,
    complain,
    load,
    pay_before_telling,
    print_json,
    server_argument,
    tell_what_is_forsaken,
    wait_for,
    with_config,
)
from snaprotd.commands.hold import HoldLength
from snaprotd.commands.jobs.outlook import Outlook, Prospect, Wish, look_ahead
from snaprotd.commands.jobs.status_client import refuse_another_ledger
from snaprotd.commands.text.tables import now_text, refusal_text, sum_text
from snaprotd.commands.text.terminal import Say, is_answered, is_wanted, moving_line, show, tell
from snaprotd.config.settings import Config
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.rotation import STEPS, Result, Rotation, Step
from snaprotd.core.words import Json, duration, listed, plain_id
from snaprotd.report.rows import outcome_of, refusal

if TYPE_CHECKING:
    from snaprotd.commands.jobs.now import Ending

T = TypeVar("T")

SHOWN = [step for step in STEPS if step is not Step.DONE]


class Declined(SnaprotdError):
    """Somebody was asked, and does not want it: that was said already."""


@click.command(short_help="Run one rotation of each SERVER at once.")
@server_argument(many=True)
@with_config
@click.option("--failed", is_flag=True, help="Those servers whose last rotation failed, in place of named ones.")
@click.option("--description", default="", metavar="TEXT", help="A description to store with the snapshots.")
@click.option(
    "--hold",
    type=HoldLength(none=True),
    metavar="14d|forever|none",
    help="How long no rotation deletes it. Default: `hold_manual`.",
)
@click.option("--live", is_flag=True, help="Do not stop any server for it.")
@click.option("--yes", is_flag=True, help="Do not ask, and take it outside the policy's window too.")
@as_json
def now(servers: tuple[str, ...], path: str | None, as_json: bool, **options: Any) -> int:
    """Run one rotation of each SERVER at once, and wait for their ends.

    \b
    Example:
      snaprotd now web-01 --description "before the upgrade"
      snaprotd now --failed

    It does what the policy says: stops the server first where that is asked for, and deletes afterwards what is no
    longer kept. What it takes is held: its name says until when, and no rotation deletes it before; after that it falls
    under `keep` like any other. On a terminal it asks before it stops a server, and outside the policy's window;
    elsewhere it does nothing outside the window without --yes. It goes through the daemon's ledger, and refuses while a
    rotation of this server is open. Of several servers `max_concurrent` go on at
    once, and of a group one. Ctrl-C begins nothing more, and sees every server started again that is held off; a
    second one ends at once.
    """
    begin(never_wait=True)
    structlog.contextvars.clear_contextvars()
    wish = Wish(servers=servers, **options)
    if wish.failed and servers:
        raise click.UsageError("Name servers or say --failed, not both.")
    if not (wish.failed or servers):
        raise click.UsageError("Missing argument 'SERVER': name one or more, or say --failed.")
    try:
        return _now(wish, path, as_json=as_json)
    except ConfigError:
        raise
    except SnaprotdError as error:
        if as_json:
            print_json(refusal(str(error)))
        if isinstance(error, Declined):
            return FAILED
        raise


def _now(wish: Wish, path: str | None, *, as_json: bool) -> int:
    settings = load(path)
    refuse_another_ledger(settings)
    asks = not wish.yes and is_answered()
    prospect = _or_pay(look_ahead(settings, os.environ, wish, looks_at_servers=asks), path)
    for sentence in (*prospect.left_out, *filter(None, [prospect.doubt])):
        complain(sentence)
    tell_what_is_forsaken(settings, path, but=[one.target.server_id for one in prospect.outlooks])
    if asks and not _may_go_on(prospect.outlooks):
        raise Declined("nothing was done: the question was not answered with yes")
    endings = _run(settings, wish, prospect, path, asks=asks)
    _tell(wish, endings, as_json=as_json)
    is_good = prospect.doubt is None and all(one.result is Result.SUCCESS for one in endings)
    return 0 if is_good else FAILED


def _or_pay(work: Coroutine[Any, Any, T], path: str | None) -> T:
    """What `work` answers. Where a mistake of ours ends it there may be no daemon that starts what is off."""
    try:
        return wait_for(work)
    except (SnaprotdError, KeyboardInterrupt):
        raise
    except Exception as error:
        pay_before_telling(error, path)


# -- beforehand --------------------------------------------------------------------------------------------------------


def _may_go_on(outlooks: Sequence[Outlook]) -> bool:
    """Whether somebody wants what it means for the servers: asked once for all of them."""
    shut: dict[str, list[str]] = {}
    for one in outlooks:
        if one.shut:
            shut.setdefault(one.shut, []).append(one.target.label)
    for why, labels in shut.items():
        tell(f"{listed(labels)} {'is' if len(labels) == 1 else 'are'} {why}.", err=True)
    stopped = [one for one in outlooks if one.stops]
    what = "the snapshot" if len(outlooks) == 1 else "the snapshots"
    if stopped:
        tell(f"{_switched_off(stopped)}; --live takes {what} without that.", err=True)
    wanted = what if len(outlooks) == 1 else f"{len(outlooks)} snapshots"
    return not (shut or stopped) or is_wanted(f"Take {wanted} now?")


def _switched_off(stopped: Sequence[Outlook]) -> str:
    times = [f"for about {duration(one.off_for)}" if one.off_for else "" for one in stopped]
    if len(stopped) == 1:
        for_about = f" {times[0]}, as its last ones were" if times[0] else ""
        return f"{stopped[0].target.label} will be switched off{for_about}"
    names = [one.target.label + (f" ({time})" if time else "") for one, time in zip(stopped, times, strict=True)]
    return f"{listed(names)} will be switched off"


# -- meanwhile ---------------------------------------------------------------------------------------------------------


def _run(settings: Config, wish: Wish, prospect: Prospect, path: str | None, *, asks: bool) -> list[Ending]:
    """What became of each. Where nobody is asked, nothing begins outside a window: a stop is what the author meant."""
    from snaprotd.commands.jobs.now import Ending, rotate_now

    outlooks, heeds = prospect.outlooks, not (asks or wish.yes)
    refused = [Ending(target=target, refused=why) for target, why in prospect.at_work]
    refused += [
        Ending(
            target=one.target,
            refused=f"{one.target.label} is {one.shut}: nothing was done; --yes takes the snapshot all the same",
        )
        for one in outlooks
        if one.shut and heeds
    ]
    begun = [one.target for one in outlooks if not (one.shut and heeds)]
    if not begun:
        return refused
    with moving_line() as say:
        progress = _Progress(say, len(begun), settings.max_concurrent)
        work = rotate_now(
            *(settings, os.environ, begun),
            description=wish.description,
            hold=wish.hold,
            mends=wish.failed,
            show=progress.show,
            say=say.for_good,
            ended=progress.ended,
        )
        ended = _or_pay(work, path)
    order = [target.server_id for target in (*(one.target for one in outlooks), *(one for one, _ in prospect.at_work))]
    return sorted([*refused, *ended], key=lambda one: order.index(one.target.server_id))


class _Progress:
    """Says at which steps the rotations are, how long they usually take, and how many have ended."""

    def __init__(self, say: Say, number: int, at_once: int) -> None:
        self._say, self._number, self._ended = say, number, 0
        if number > 1:
            say(f"{number} servers, {at_once} at a time" if number > at_once else f"{number} servers")

    def show(self, rotation: Rotation, usual: float | None) -> None:
        if rotation.step not in SHOWN:
            return
        place = f"{SHOWN.index(rotation.step) + 1}/{len(SHOWN)} {rotation.step}"
        usually = f" (usually {duration(usual)} in all)" if usual is not None else ""
        text = f"{rotation.label}: {place}{': ' + rotation.note if rotation.note else ''}{usually}"
        self._say(text, of=rotation.label if self._number > 1 else "")

    def ended(self, ending: Ending) -> None:
        self._ended += 1
        if self._number > 1:
            text = f"{ending.target.label}: {_word(ending)} ({self._ended} of {self._number} have ended)"
            self._say.over(text, of=ending.target.label)


# -- in the end --------------------------------------------------------------------------------------------------------


def _tell(wish: Wish, endings: Sequence[Ending], *, as_json: bool) -> None:
    """Raises `SnaprotdError` where the only one that was named was refused."""
    if wish.is_of_one and endings[0].rotation is None:
        raise SnaprotdError(endings[0].refused)
    if as_json:
        rows = [_row(one) for one in endings]
        print_json(outcome_of(endings[0].rotation) if wish.is_of_one and endings[0].rotation else rows)
        return
    for one in endings:
        show(now_text(one.rotation) if one.rotation else refusal_text(one.target.label, one.refused))
    if not endings:
        tell("No server's last rotation failed: nothing was done.")
    elif not wish.is_of_one:
        show(sum_text({one.target.label: _word(one) for one in endings}))


def _word(ending: Ending) -> str:
    is_open = ending.rotation is not None and not ending.rotation.is_finished
    return "interrupted" if is_open else str(ending.result)


def _row(ending: Ending) -> Json:
    """One of several: as that of one, and which server it is."""
    told = outcome_of(ending.rotation) if ending.rotation else refusal(ending.refused)
    return {"server": ending.target.label, "server_id": plain_id(ending.target.server_id), **told}
