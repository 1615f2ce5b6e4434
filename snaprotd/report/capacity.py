"""What a night takes, and whether it fits: in figures, words and JSON. No input or output here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from snaprotd.config.settings import Config, Target
from snaprotd.core.asking.budget import Budget, Past, pages_of
from snaprotd.core.asking.night import Begun, Due, Night, play
from snaprotd.core.policy import Policy
from snaprotd.core.rotation import Rotation
from snaprotd.core.schedule import is_open, next_slot, spread_delay
from snaprotd.core.words import Json, count, duration, plain_id, shown_duration, zulu

DAY = timedelta(days=1)
NIGHTS = 7
"""Of so many nights, from noon to noon in UTC, the one with the most slots is played through."""
MOST = 20_000
"""Rotations that are played through: more in a night than are worth the time."""
OFF_AT_MOST = 1.25
"""Times what the provider needs: a server that is off for longer is off because of others."""
FACTORS = (1.5, 2, 3, 4, 6, 10)
"""By which a setting is raised, to see whether that would do."""
WINDOW_STEP = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The fullest night that lies ahead."""

    first: datetime
    """Its first slot: the seconds of the night count from there."""
    night: Night
    budget: Budget
    max_concurrent: int
    changes: tuple[tuple[str, str], ...] = ()
    """What would make it fit: each by itself, as its key and its value. Empty where it does."""

    @property
    def fits(self) -> bool:
        return fits(self.night)

    @property
    def assumed(self) -> int:
        """Of how many rotations no past tells how long a snapshot takes."""
        return sum(not one.due.past.is_known for one in self.night.begun)


def fits(night: Night) -> bool:
    """Whether every rotation begins in time, and no server is off for much longer than the provider needs."""
    is_short = all(one.off_at_worst <= OFF_AT_MOST * one.due.past.off for one in night.begun)
    return not night.late and not night.in_flight and is_short


def capacity_of(
    config: Config,
    targets: Sequence[Target],
    latest: Mapping[str, Rotation],
    *,
    servers: int,
    snapshots: int,
    page_size: int,
    now: datetime,
) -> Capacity | None:
    """`latest`: the last rotation of each server. `servers` and `snapshots`: how many the account has of them.

    None where no slot lies ahead.
    """
    slots = _fullest_night(targets, now)
    if not slots:
        return None
    first = min(slot + _delay(target) for target, slot in slots)
    due = [_due(target, slot, first, latest.get(target.server_id)) for target, slot in slots]
    pages = pages_of(servers, snapshots, page_size)
    budget = Budget(rate=config.api.requests_per_second, poll_interval=config.poll_interval, pages=pages)
    night = play(due, budget, max_concurrent=config.max_concurrent)
    changes = () if fits(night) else tuple(_changes(due, budget, config.max_concurrent))
    return Capacity(first=first, night=night, budget=budget, max_concurrent=config.max_concurrent, changes=changes)


def _delay(target: Target) -> timedelta:
    return spread_delay(target.server_id, target.policy.spread)


def _fullest_night(targets: Sequence[Target], now: datetime) -> list[tuple[Target, datetime]]:
    """The slots of the night that has the most of them."""
    noon = now.astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    starts = [noon + (number - (now < noon)) * DAY for number in range(NIGHTS)]

    @cache
    def slots_in(policy: Policy, start: datetime) -> tuple[datetime, ...]:
        found: list[datetime] = []
        slot = next_slot(policy.schedule, max(start, now))
        while slot is not None and slot <= start + DAY and len(found) < MOST:
            found.append(slot)
            slot = next_slot(policy.schedule, slot)
        return tuple(found)

    at_work = [target for target in targets if not target.policy.paused]
    fullest = max(starts, key=lambda start: sum(len(slots_in(one.policy, start)) for one in at_work))
    return [(target, slot) for target in at_work for slot in slots_in(target.policy, fullest)][:MOST]


def _due(target: Target, slot: datetime, first: datetime, last: Rotation | None) -> Due:
    policy, at = target.policy, slot + _delay(target)
    return Due(
        server_id=target.server_id,
        at=(at - first).total_seconds(),
        latest=(min(slot + policy.missed_within, _closes(policy.window, policy.timezone, at)) - first).total_seconds(),
        stops=policy.stop_first,
        past=Past([last] if last is not None else []),
        group=policy.group,
    )


@cache
def _closes(window: tuple[str, ...], timezone: str, at: datetime) -> datetime:
    """When nothing may begin any more, to a few minutes; a day later where the window is open until then."""
    end = at + DAY
    while window and at < end and is_open(window, timezone, at):
        at += WINDOW_STEP
    return at if window else datetime.max.replace(tzinfo=UTC)


def _changes(due: Sequence[Due], budget: Budget, most: int) -> Iterator[tuple[str, str]]:
    """What would make it fit, each by itself with the figure that would do."""

    def would_do(rate: float = budget.rate, at_once: int = most, number: int = len(due)) -> bool:
        return fits(play(in_order[:number], replace(budget, rate=rate), max_concurrent=at_once))

    in_order = sorted(due, key=lambda one: one.at)
    rates = (budget.rate * factor for factor in FACTORS)
    if (rate := next((one for one in rates if would_do(rate=one)), None)) is not None:
        yield "api.requests_per_second", f"{rate:g}"
    numbers = (int(most * factor) for factor in FACTORS)
    if (number := next((one for one in numbers if one > most and would_do(at_once=one)), None)) is not None:
        yield "max_concurrent", str(number)
    if fewer := _largest(lambda number: would_do(number=number), len(due)):
        yield "rotations in one night", str(fewer)


def _largest(would_do: Callable[[int], bool], below: int) -> int:
    """The largest number that would do, as far as none does above one that does not."""
    least = 0
    while below - least > 1:
        half = (least + below) // 2
        least, below = (half, below) if would_do(half) else (least, half)
    return least


# -- in words and as JSON ----------------------------------------------------------------------------------------------


def exactly(seconds: float) -> str:
    """To the second, as in `6 min 10 s`."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def summary_of(capacity: Capacity) -> str:
    """Whether it fits, and what to change where it does not, in one sentence."""
    night = capacity.night
    off = f"; servers are off for {exactly(night.off)}, {exactly(night.off_at_worst)} at worst" if night.off else ""
    if capacity.fits:
        waits = f"the last to wait begins {duration(night.latest_begin)} after its slot"
        return f"It fits: {count(len(night.begun), 'rotation')} in {duration(night.seconds)}; {waits}{off}."
    parts = [f"{count(night.late, 'rotation')} of {len(night.begun)} would begin too late"] if night.late else []
    parts += [f"{count(night.in_flight, 'slot')} would come while the one before is at work"] if night.in_flight else []
    if not parts:
        parts = [f"servers would be off for up to {exactly(night.off_at_worst)}"]
    do = " or ".join(f"`{key}`: {value}" for key, value in capacity.changes)
    return f"It does not fit: {', '.join(parts)}; {f'what would do: {do}' if do else 'let fewer slots come at once'}."


def warning_of(capacity: Capacity | None) -> str:
    """What `check --online` tells; empty where it fits."""
    if capacity is None or capacity.fits:
        return ""
    return f"capacity: {summary_of(capacity)} `snaprotd plan --capacity` shows more"


def facts_of(capacity: Capacity) -> list[tuple[str, str]]:
    """The figures for people, each with its name."""
    night, budget = capacity.night, capacity.budget
    number = max(len(night.begun), 1)
    allowed = f"{budget.rate * 60:g} allowed"
    facts = [
        ("night", f"from {zulu(capacity.first)}, {duration(night.seconds)} until the last has ended"),
        (
            "rotations",
            f"{len(night.begun)}, up to {capacity.max_concurrent} at once, of which {budget.most_at_once} meet",
        ),
        ("longest wait", duration(night.latest_begin)),
        ("requests", f"{night.requests}, {night.requests / number:.1f} a rotation"),
        ("busiest minute", f"{night.busiest_minute} requests of {allowed}"),
    ]
    if night.off:
        facts.append(("off", f"{exactly(night.off)} expected, {exactly(night.off_at_worst)} at worst, the longest"))
    if capacity.assumed:
        takes = shown_duration(timedelta(seconds=Past().snapshot))
        facts.append(("assumed", f"{takes} a snapshot, for the {capacity.assumed} of which none is known yet"))
    return facts


def capacity_json(capacity: Capacity, targets: Sequence[Target], wanted: Collection[str]) -> Json:
    """`plan --capacity --json`; of the servers those with the ids `wanted`."""
    night, labels = capacity.night, {target.server_id: target.label for target in targets}
    return {
        "fits": capacity.fits,
        "summary": summary_of(capacity),
        "changes": [{"key": key, "value": value} for key, value in capacity.changes],
        "requests_per_second": capacity.budget.rate,
        "max_concurrent": capacity.max_concurrent,
        "night": {
            "first_slot": zulu(capacity.first),
            "last_end": zulu(capacity.first + timedelta(seconds=int(night.seconds))),
            "seconds": int(night.seconds),
            "rotations": len(night.begun),
            "too_late": night.late,
            "in_flight": night.in_flight,
            "longest_wait": int(night.latest_begin),
            "requests": night.requests,
            "busiest_minute": night.busiest_minute,
        },
        "servers": [_row(capacity, one, labels) for one in night.begun if one.due.server_id in wanted],
    }


def _row(capacity: Capacity, one: Begun, labels: Mapping[str, str]) -> Json:
    return {
        "id": plain_id(one.due.server_id),
        "name": labels[one.due.server_id],
        "begins": zulu(capacity.first + timedelta(seconds=int(one.at))),
        "too_late": one.is_late,
        "off": int(one.off) if one.due.stops else None,
        "off_at_worst": int(one.off_at_worst) if one.due.stops else None,
        "snapshot": int(one.due.past.snapshot),
        "is_assumed": not one.due.past.is_known,
    }
