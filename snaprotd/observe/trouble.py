"""Which servers have a problem that an alert may tell: of a large fleet, the series of no other need be kept."""

from __future__ import annotations

from datetime import datetime, timedelta

from snaprotd.engine.board import Holdings, ServerFacts

TOLD_FOR = timedelta(hours=1)
"""How long alerts tell of what happened once."""
LATE = timedelta(minutes=1)
"""After a slot, the next one is told within a quarter of it."""
SPARE = timedelta(hours=2)
"""Beside a tenth of the interval, how much older than that the newest snapshot may be, as in the alert."""


def is_in_trouble(facts: ServerFacts, now: datetime) -> bool:
    """Whether anything is wrong with the server, or was within the last hour."""
    return (
        bool(facts.missing or facts.slots_lost or facts.start_failures)  # a count that went away would come back as new
        or any(at is not None and now - at < TOLD_FOR for at in (facts.last_partial, facts.last_missed))
        or _has_failed(facts)
        or _is_not_planned(facts, now)
        or (facts.holdings is not None and _holds_badly(facts, facts.holdings, now))
    )


def _has_failed(facts: ServerFacts) -> bool:
    """The last rotation has, and no snapshot was taken since."""
    newest = None if facts.holdings is None else facts.holdings.newest_completed
    failed = facts.last_failure
    return failed is not None and not any(at is not None and at > failed for at in (facts.last_success, newest))


def _is_not_planned(facts: ServerFacts, now: datetime) -> bool:
    return facts.expected_interval is not None and (facts.next_run is None or now - facts.next_run > LATE)


def _holds_badly(facts: ServerFacts, holdings: Holdings, now: datetime) -> bool:
    if holdings.blocked or holdings.prune_pending:
        return True
    if holdings.newest_completed is None:
        return facts.last_attempt is not None
    if facts.expected_interval is None:
        return False
    return now - holdings.newest_completed > 1.1 * timedelta(seconds=facts.expected_interval) + SPARE
