"""The commands that keep a snapshot from rotation, and how long that is typed."""

from __future__ import annotations

import os
from datetime import timedelta
from shlex import quote
from typing import Any

import click

from snaprotd.commands.common import begin, load, wait_for, with_config
from snaprotd.commands.jobs.status_client import refuse_another_ledger
from snaprotd.commands.text.terminal import tell
from snaprotd.core.holds import HoldFor, hold_in_words
from snaprotd.core.words import read_duration


class HoldLength(click.ParamType[HoldFor]):
    """`14d`, `forever` or, where that makes sense, `none`."""

    name = "duration"

    def __init__(self, *, none: bool) -> None:
        self._words = {"forever": HoldFor(None)} | ({"none": HoldFor(timedelta(0))} if none else {})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> HoldFor:
        length = self._words.get(str(value))
        if length is None and (read := read_duration(str(value))) is not None and read > timedelta(0):
            length = HoldFor(read)
        if length is None:
            self.fail(f"`{value}` is neither a duration such as 14d nor {' nor '.join(self._words)}.", param, ctx)
        return length


@click.command()
@click.argument("snapshot_id")
@with_config
@click.option(
    "--for", "wanted", type=HoldLength(none=False), metavar="7d", help="How long, or forever. Default: `hold_manual`."
)
def hold(snapshot_id: str, path: str | None, wanted: HoldFor | None) -> int:
    """Keep the snapshot SNAPSHOT_ID from every rotation, for a while.

    \b
    Example:
      snaprotd hold 801 --for 7d

    It is held until the end of the day, in UTC, in which that time is over, whatever was said of it before; without
    --for, for the policy's `hold_manual`, and for ever where that is 0s. It stands in the ledger, and is lost with it.
    What is held and what others have made leave two slots to rotation: beyond that it is refused.
    """
    from snaprotd.commands.jobs.by_hand import by_hand
    from snaprotd.commands.jobs.holding import hold as hold_it

    begin()
    settings = load(path)
    refuse_another_ledger(settings)

    async def work() -> int:
        async with by_hand(settings, os.environ, snapshot_id) as chosen:
            until = await hold_it(settings, chosen, wanted)
            tell(f"{chosen.found.snapshot.name} of {chosen.found.label} is {hold_in_words(until)}.")
            return 0

    return wait_for(work())


@click.command()
@click.argument("snapshot_id")
@with_config
def unhold(snapshot_id: str, path: str | None) -> int:
    """Let go of the snapshot SNAPSHOT_ID: it falls under its policy again, whatever its name says.

    \b
    Example:
      snaprotd unhold 801
    """
    from snaprotd.commands.jobs.by_hand import by_hand
    from snaprotd.commands.jobs.holding import let_go

    begin()
    settings = load(path)
    refuse_another_ledger(settings)

    async def work() -> int:
        async with by_hand(settings, os.environ, snapshot_id) as chosen:
            name, label = chosen.found.snapshot.name, chosen.found.label
            was_held = await let_go(settings, chosen)
            if was_held is None:
                tell(f"{name} of {label} is not held: there was nothing to let go of.")
            else:
                tell(
                    f"{name} of {label} is not held any more; `snaprotd plan {quote(label)}` shows what becomes of it."
                )
            return 0

    return wait_for(work())
