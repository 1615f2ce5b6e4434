"""What the commands do about holding snapshots: those that exist, and the one that `now` takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from snaprotd.commands.jobs.account import no_policy
from snaprotd.commands.jobs.by_hand import ByHand, Found, Impossible
from snaprotd.config.settings import Config, Target
from snaprotd.core.errors import CloudError, LedgerError, SnaprotdError
from snaprotd.core.holds import RELEASED, HoldFor, last_day
from snaprotd.engine.tools import Tools
from snaprotd.report.assessment import why_not_to_hold

Say = Callable[[str], None]


async def hold_of_new(config: Config, tools: Tools, target: Target, *, wanted: HoldFor | None, say: Say) -> date | None:
    """The last day for which what `now` is to take of the server is held; None where it is not held.

    `wanted` is what somebody has asked for, None where that is nothing: then it is the policy's `hold_manual`, and is
    left out where it would leave too little to rotation, which is said. Raises `SnaprotdError` where what was asked for
    cannot be: nothing was done then.
    """
    now, length = tools.now(), target.policy.hold_manual if wanted is None else wanted.length
    until = last_day(now, length)
    if until is None:
        return None
    try:
        listed = await tools.inventory.snapshots(target.server_id)
        ids = tools.inventory.ids_of(target.server_id)
        there = (await tools.ledger.recall(ids, listed, now)).marked(listed, config.instance)
    except (CloudError, LedgerError) as error:
        if wanted is not None:
            raise SnaprotdError(
                f"{target.label}: nothing was done, for its snapshots cannot be read: {error}"
            ) from error
        return until  # the rotation meets it too; and what was held for nothing is free again in some days
    why = why_not_to_hold(config, target, there, now)
    if why and wanted is not None:
        raise SnaprotdError(f"{target.label}: nothing was done: {why}")
    if why:
        say(f"{target.label}: the snapshot will not be held: {why}")
    return None if why else until


async def hold(config: Config, chosen: ByHand, wanted: HoldFor | None) -> date:
    """Hold a snapshot; the answer is its last day. Without a wish: for `hold_manual`, for ever where that is none.

    Raises `Impossible` for one that no rotation deletes anyway, or where too little would be left to rotation, and
    `SnaprotdError` where it cannot be noted, or its deletion is under way.
    """
    found, target = chosen.found, _target_of(config, chosen.found)
    until = last_day(found.now, (target.policy.hold_manual or None) if wanted is None else wanted.length)
    if until is None:
        raise Impossible("a hold of no length holds nothing: `snaprotd unhold` lets go of a snapshot")
    if why := why_not_to_hold(config, target, found.beside, found.now, found.snapshot.ids):
        raise Impossible(f"nothing was done: {why}")
    coming = [*found.beside, *await chosen.being_taken()]
    if why_not_to_hold(config, target, coming, found.now, found.snapshot.ids):
        raise Impossible(
            "nothing was done: a rotation that is under way takes one that is held, and with this one too few slots "
            "would be left to rotation. Let go of another one first (`snaprotd unhold`), or try again when it has ended"
        )
    await chosen.say_of_hold(until)
    return until


async def let_go(config: Config, chosen: ByHand) -> date | None:
    """It is the policy's to rotate again, whatever its name says; the answer is until when it was held.

    Raises `Impossible` for one that is not ours, and `SnaprotdError` where it cannot be noted.
    """
    found = chosen.found
    _target_of(config, found)
    was_held = found.hold
    if was_held is not None:
        await chosen.say_of_hold(RELEASED)
    return was_held


def _target_of(config: Config, found: Found) -> Target:
    """The server's policy, under which the snapshot is ours. Raises `Impossible`."""
    if found.target is None:
        raise Impossible(no_policy(found.label, config))
    if not found.is_ours:
        raise Impossible(f"{found.snapshot.name} is not made by snaprotd: no rotation deletes it")
    return found.target
