"""The series of each server, as text that is written anew only where what is known of the server has changed.

Of ten thousand servers a scrape has a hundred thousand samples: an object for each would cost seconds. Most that might
be told would be 0: such a one is left out until it is something else, and told from then on. A server that is removed
takes all of its series with it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice, repeat
from typing import Any

from prometheus_client.utils import floatToGoString

from snaprotd.core.holds import end_of
from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.rotation import Result
from snaprotd.engine.board import Board, Holdings, ServerFacts
from snaprotd.observe.trouble import is_in_trouble

MEGABYTE = 1024 * 1024
"""The provider's `size_mb` in bytes. Whether it means 10^6 or 2^20 is not documented."""

SKIPPED = ("in_flight", "paused", "window", "group", "rate")
"""Why a slot was not run."""

LARGEST_WHOLE = 2**53
"""Below it each whole number is a float of its own."""

AT_ONCE = 25
"""Servers whose text is written in one go, in a few milliseconds."""

Sample = tuple[tuple[str, ...], float]
"""The values of the labels beside `server`, and the sample's own."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Samples of one name, some for each server. None or no sample is absent, rather than 0."""

    name: str
    help: str
    of: Callable[[ServerFacts], Iterable[Sample]]
    labels: tuple[str, ...] = ()
    """Beside `server`."""
    at_zero: Container[tuple[str, ...]] = ()
    """Those, by the values of their labels, that are told while they are 0 too."""
    of_each: bool = False
    """Each replica tells it, of what it has found itself."""

    @property
    def is_own(self) -> bool:
        """Each replica counts what it has done itself; what is so for all, one of them tells."""
        return self.of_each or self.name.endswith("_total")

    @property
    def head(self) -> str:
        kind = "counter" if self.name.endswith("_total") else "gauge"
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {kind}\n"

    def written(self, label: str, facts: ServerFacts, told: str = "") -> str:
        """Its lines of one server, which has this label, escaped already; `told`: those that were written last."""
        lines = []
        for values, value in self.of(facts):
            before, after = _around(self.name, self.labels, values)
            series = f"{before}{label}{after}"
            if value or values in self.at_zero or series in told:
                lines.append(f"{series}{_number(value)}\n")
        return "".join(lines)


@lru_cache(maxsize=1000)
def _around(name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, str]:
    """What stands before and after the server's label. Labels are in the order of their names."""
    known = dict(zip(labels, values, strict=True))
    written = {one: f'{one}="{escaped(value)}"' for one, value in known.items()} | {"server": 'server="\0"'}
    before, _, after = ",".join(written[one] for one in sorted(written)).partition("\0")
    return f"{name}{{{before}", f"{after}}} "


def _number(value: float) -> str:
    """Whole ones without `.0` and exponent: most samples are, and they are a fleet's."""
    if abs(value) < LARGEST_WHOLE and value == int(value):
        return str(int(value))
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def escaped(value: str) -> str:
    """As a label's value is written in Prometheus' text format."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _one(value: float | None) -> Iterable[Sample]:
    return () if value is None else (((), value),)


def _time(name: str, text: str, of: Callable[[ServerFacts], datetime | None], **more: Any) -> Series:
    def samples(facts: ServerFacts) -> Iterable[Sample]:
        instant = of(facts)
        return _one(None if instant is None else instant.timestamp())

    return Series(name=name, help=text, of=samples, **more)


def _held(name: str, text: str, of: Callable[[Holdings], Iterable[Sample]], **more: Any) -> Series:
    """Of what the provider's list says: absent before there was one."""
    return Series(name=name, help=text, of=lambda facts: () if facts.holdings is None else of(facts.holdings), **more)


def _size(holdings: Holdings) -> float | None:
    return None if holdings.newest_size_mb is None else holdings.newest_size_mb * MEGABYTE


SERIES = (
    Series(
        name="snaprotd_server_info",
        help="Ties our label to the account.",
        labels=("server_id", "server_name"),
        of=lambda facts: [((facts.server_id, facts.server_name), 1)],
    ),
    Series(
        name="snaprotd_server_missing",
        help="1 if the account has no such server.",
        of=lambda facts: _one(facts.missing),
    ),
    _time("snaprotd_next_run_timestamp_seconds", "When the next rotation is due.", lambda facts: facts.next_run),
    Series(
        name="snaprotd_expected_interval_seconds",
        help="The longest time between two slots of the schedule.",
        of=lambda facts: _one(facts.expected_interval),
    ),
    _time(
        "snaprotd_last_attempt_timestamp_seconds",
        "When the last rotation began.",
        lambda facts: facts.last_attempt,
    ),
    _time(
        "snaprotd_last_success_timestamp_seconds",
        "When the last successful rotation ended.",
        lambda facts: facts.last_success,
    ),
    _time(
        "snaprotd_last_failure_timestamp_seconds",
        "When the last rotation that failed ended.",
        lambda facts: facts.last_failure,
    ),
    _time(
        "snaprotd_last_partial_timestamp_seconds",
        "When the last rotation ended that took its snapshot and could not delete an old one.",
        lambda facts: facts.last_partial,
    ),
    _time(
        "snaprotd_last_missed_timestamp_seconds",
        "When slots were last found to have passed while no daemon ran, with nothing run in their place.",
        lambda facts: facts.last_missed,
        of_each=True,
    ),
    Series(
        name="snaprotd_rotations_total",
        help="Rotations ended.",
        labels=("result",),
        of=lambda facts: [((one,), facts.rotations.get(one, 0)) for one in Result],
    ),
    Series(
        name="snaprotd_rotations_skipped_total",
        help="Slots that came and were not run.",
        labels=("reason",),
        of=lambda facts: [((one,), facts.skipped.get(one, 0)) for one in SKIPPED],
    ),
    Series(
        name="snaprotd_missed_slots_total",
        help="Slots that passed while no daemon ran.",
        labels=("action",),
        of=lambda facts: [((one,), facts.missed.get(one, 0)) for one in ("ran_late", "skipped")],
    ),
    Series(
        name="snaprotd_server_start_failures_total",
        help="Start requests that did not bring the server up.",
        of=lambda facts: _one(facts.start_failures),
    ),
    _held(
        "snaprotd_snapshots",
        "Snapshots the server holds.",
        lambda one: [((owner, state), one.counts.get((owner, state), 0)) for owner in Owner for state in SnapshotState],
        labels=("owner", "state"),
        at_zero={(Owner.MANAGED, SnapshotState.COMPLETED)},
    ),
    _time(
        "snaprotd_newest_completed_timestamp_seconds",
        "When our newest completed snapshot was made.",
        lambda facts: None if facts.holdings is None else facts.holdings.newest_completed,
    ),
    _held(
        "snaprotd_newest_completed_size_bytes",
        "Size of our newest completed snapshot.",
        lambda one: _one(_size(one)),
        at_zero={()},
    ),
    _held(
        "snaprotd_blocked",
        "1 if the server is full and nothing on it may be deleted.",
        lambda one: _one(one.blocked),
        at_zero={()},
    ),
    _held(
        "snaprotd_prune_pending",
        "Snapshots that retention no longer keeps and that are still there.",
        lambda one: _one(one.prune_pending),
    ),
    _held(
        "snaprotd_held",
        "Snapshots that are held: no rotation deletes them before their day is over.",
        lambda one: _one(len(one.holds)),
    ),
    _held(
        "snaprotd_hold_until_timestamp_seconds",
        "When the last of the holds ends; +Inf for one for ever.",
        lambda one: _one(end_of(max(one.holds)) if one.holds else None),
    ),
)


def _as_known(facts: ServerFacts) -> ServerFacts:
    """All that is known now: what counts is a dictionary that goes on being changed."""
    return replace(facts, rotations=dict(facts.rotations), skipped=dict(facts.skipped), missed=dict(facts.missed))


class ServerSeries:
    """The series of the board's servers, kept as text."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._kept: dict[str, tuple[ServerFacts, tuple[str, ...]]] = {}
        """By label: what was known when it was written, and the lines of each of `SERIES`."""
        self._were_dropped: set[str] = set()
        """The labels of those that were told as dropped; one that is configured again is told as not dropped."""

    def pieces(self, only_in_trouble_at: datetime | None = None) -> Iterator[str]:
        """The text, in pieces of which each takes some milliseconds: between two of them others may have their turn."""
        shown, now = list(self._board.servers.items()), only_in_trouble_at
        if now is not None:
            off = self._labelled(self._board.held_off)
            shown = [(label, facts) for label, facts in shown if label in off or is_in_trouble(facts, now)]
        servers = iter(shown)
        kept: dict[str, tuple[ServerFacts, tuple[str, ...]]] = {}
        while some := list(islice(servers, AT_ONCE)):
            kept |= {label: self._written(label, facts) for label, facts in some}
            yield ""
        self._kept = kept
        reports = self._board.reports()
        for number, one in enumerate(SERIES):
            if not (reports or one.is_own):
                continue
            yield one.head + "".join([texts[number] for _, texts in kept.values()])
        if reports:
            yield self.stopped(kept)
            yield self.dropped()

    def _written(self, label: str, facts: ServerFacts) -> tuple[ServerFacts, tuple[str, ...]]:
        before = self._kept.get(label)
        if before is not None and before[0] == facts:
            return before
        its, told = escaped(label), before[1] if before is not None else repeat("")
        return _as_known(facts), tuple([one.written(its, facts, text) for one, text in zip(SERIES, told, strict=False)])

    def stopped(self, shown: Iterable[str]) -> str:
        """Which servers are off because of us, and 0 for each other that is shown, or was off: nobody has to guess.

        A server that left the configuration while it was off stays visible until it is on again.
        """
        text = "1 while we hold the server off, or owe it a start, as seen."
        were_off = [label for label, facts in self._board.servers.items() if facts.was_off]
        return self._flags("snaprotd_server_stopped_by_us", text, self._board.held_off, [*shown, *were_off])

    def dropped(self) -> str:
        """Which servers a `match` had found and none finds any more; nothing before a list has told."""
        dropped = self._board.dropped
        if dropped is None:
            return ""
        text = "1 for a week where no `match` finds the server any more, which one had found."
        again = self._were_dropped & self._board.servers.keys()
        self._were_dropped = again | self._labelled(dropped.items()).keys()
        return self._flags("snaprotd_server_dropped", text, dropped.items(), again)

    def _flags(self, name: str, text: str, those: Iterable[tuple[str, str]], shown: Iterable[str]) -> str:
        """1 for `those`, by id and label; 0 for the others that are `shown`."""
        values = dict.fromkeys(shown, 0) | self._labelled(those)
        lines = [f'{name}{{server="{escaped(label)}"}} {value}\n' for label, value in values.items()]
        return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)

    def _labelled(self, those: Iterable[tuple[str, str]]) -> dict[str, int]:
        """1 for each of `those`, which are given by id and label.

        What is not configured is shown under the label that it had, or under its id where that is another server's now.
        """
        servers = self._board.servers
        labels = {facts.server_id: label for label, facts in servers.items()}
        return {labels.get(server_id, server_id if label in servers else label): 1 for server_id, label in those}
