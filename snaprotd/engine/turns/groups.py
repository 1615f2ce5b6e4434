"""Turns among the servers of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from snaprotd.core.admission import why_too_late
from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import STEPS, Failed, Rotation, Step, advance
from snaprotd.engine.tools import NO_PERMIT, Permit, Permits, Tools

log = structlog.get_logger("snaprotd.rotations")

STEPS_BEFORE_A_STOP = STEPS[: STEPS.index(Step.STOP) + 1]


def is_still_to_stop(rotation: Rotation) -> bool:
    """Whether it will hold a server off that it does not yet: nothing of it has gone out."""
    before = not rotation.begun and rotation.step in STEPS_BEFORE_A_STOP
    return rotation.policy.stop_first and before and not rotation.is_payable


class Groups:
    """Turns among the servers of a group: no two of them are held off at once, in whatever process.

    Here they are one after the other; that nobody else holds one off is asked before, and proved when the stop is
    promised (`Ledger.save`).
    """

    def __init__(self, tools: Tools, *, is_seen_to: Callable[[], bool] = lambda: True) -> None:
        """`is_seen_to`: whether anybody may see to the starts that are owed; a daemon does."""
        self._tools = tools
        self._is_seen_to = is_seen_to
        self._turns: dict[str, Permits] = {}
        self._last: dict[str, str] = {}
        """Of each group who had the last turn here."""

    async def take(self, rotation: Rotation, show: Callable[[Rotation], None]) -> tuple[Permit, Rotation]:
        """Wait for the rotation's turn; it has failed where it is too late for it then."""
        group = rotation.policy.group
        if not group or not is_still_to_stop(rotation):
            return NO_PERMIT, rotation
        turns, permit, after = self._turns.setdefault(group, Permits(1)), NO_PERMIT, ""
        note = was_off = ""
        while not self._tools.drain.requested.is_set():
            if why := why_too_late(rotation, self._tools.now()):
                has_waited = f"{why}; it has waited in group `{group}` for {after}"
                rotation = lapsed(rotation, has_waited, "group") if after else rotation
                break
            if permit is NO_PERMIT:
                after = self._last.get(group, "")
                permit = await turns.take_within(self._tools.poll_interval) or NO_PERMIT
            if permit is not NO_PERMIT:
                after = await self._other(group, rotation)
                if not after:
                    self._last[group] = rotation.label
                    return permit, rotation
                if was_off and not self._is_seen_to():  # a moment ago, when who has started it may not have saved that
                    rotation = lapsed(rotation, f"{after}, of group `{group}`, is off, and nobody starts it", "group")
                    break
                was_off = after
                await self._tools.drain.sleep(self._tools.poll_interval, held_off=False)
            note, before = f"waits in group `{group}` for {after}", note
            if note != before:
                say_that_it_waits(rotation, note)
            show(replace(rotation, note=note, skipped="group"))
        permit.give_back()
        return NO_PERMIT, rotation

    async def _other(self, group: str, rotation: Rotation) -> str:
        """Who is held off meanwhile; empty for nobody."""
        try:
            return await self._tools.ledger.starts.held_off_in(group, but=rotation.server_id) or ""
        except LedgerError as error:
            log.error("whether a server of the group is held off cannot be told", group=group, error=str(error))
            return "a ledger that can be read"


def say_that_it_waits(rotation: Rotation, why: str) -> None:
    """In the log: its loop, which says whose line it is, has not begun."""
    whose = {"server": rotation.label, "slot": rotation.slot.isoformat(), "rotation": rotation.id}
    log.info("waiting", reason=why, **whose, step=str(rotation.step))


def lapsed(rotation: Rotation, why: str, skipped: str) -> Rotation:
    """It has waited too long for a turn; `skipped`: for which, as the metrics have it."""
    return replace(advance(rotation, Failed(why)), skipped=skipped)
