"""A forecast in the terminal: the sentences, then a row of ages for each of some days."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, log1p

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from snaprotd.commands.text.tables import STYLES
from snaprotd.core.model import Snapshot
from snaprotd.core.words import duration
from snaprotd.forecast.expect import Forecast
from snaprotd.forecast.runs import Fate, Foreseen
from snaprotd.forecast.words import DAY, Named, local_time, rules_of, sentences, title_of

MOST_ROWS = 24
WIDEST = 180
"""Columns: where there are more, rows would only become harder to follow."""
NARROWEST = 12
"""Columns of an axis that tells anything."""

FAILED, DOWN, BLOCKED = "✕", "‖", "■"

MARKS = {
    FAILED: "runs that failed since the row above",
    DOWN: "the daemon is down, or was since the row above",
    BLOCKED: "blocked: no snapshot could be taken",
}

TICKS = (
    (DAY, "1d"),
    (7 * DAY, "1w"),
    (30 * DAY, "1mo"),
    (365 * DAY, "1y"),
    (timedelta(hours=1), "1h"),
    (timedelta(hours=6), "6h"),
    (2 * DAY, "2d"),
    (4 * DAY, "4d"),
    (14 * DAY, "2w"),
    (91 * DAY, "3mo"),
    (730 * DAY, "2y"),
    (1826 * DAY, "5y"),
)
"""Ages that are named on the axis, the most welcome first."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """How things are at one moment, and what happened since the row before."""

    label: str
    ages: tuple[timedelta, ...]
    """Of the restore points, newest first."""
    mark: str

    @property
    def newest(self) -> str:
        return duration(self.ages[0].total_seconds()) if self.ages else ""

    @property
    def oldest(self) -> str:
        return duration(self.ages[-1].total_seconds()) if self.ages else ""

    def tail(self, newest: int, oldest: int) -> str:
        """The ages in words, right-aligned in so many columns."""
        if not self.ages:
            return "nothing kept"
        return f"newest {self.newest:>{newest}}, oldest {self.oldest:>{oldest}}, {len(self.ages)} kept"


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Places of ages on a line, now at its left end: close to a logarithm, but for ages below `unit`."""

    width: int
    unit: timedelta
    oldest: timedelta

    def place(self, age: timedelta) -> int:
        share = log1p(age / self.unit) / log1p(self.oldest / self.unit)
        return round(share * (self.width - 1))

    @property
    def ticks(self) -> dict[int, str]:
        """Labels by their places; as many as there is room for."""
        chosen = {0: "now"}
        for age, label in TICKS:
            if age <= self.oldest and self._is_free(self.place(age), label, chosen):
                chosen[self.place(age)] = label
        return chosen

    def _is_free(self, place: int, label: str, chosen: dict[int, str]) -> bool:
        begin = self.begin(place, label)
        return all(
            begin + len(label) < self.begin(other, text) or self.begin(other, text) + len(text) < begin
            for other, text in chosen.items()
        )

    def begin(self, place: int, label: str) -> int:
        """Where a label begins: at its place, but never so that it goes over the end."""
        return min(place, self.width - len(label))


def forecast_text(forecasts: Sequence[Named]) -> RenderableType:
    """Everything about each forecast, as wide as the terminal."""
    parts: list[RenderableType] = []
    for names, forecast in forecasts:
        told = [Text(one.text, STYLES["alarm"] if one.is_alarm else "") for one in sentences(forecast)]
        parts += [Text.assemble((title_of(names), "bold"), f"  {rules_of(forecast)}"), Text(" ").join(told)]
        parts += ["", _Chart(forecast), ""] if forecast.runs else [""]
    return Group(*parts[:-1])


class _Chart:
    """The rows, under an axis of ages."""

    def __init__(self, forecast: Forecast) -> None:
        self._rows = _rows(forecast)
        self._unit = max((forecast.end - forecast.start) / max(len(forecast.runs), 1) / 2, timedelta(minutes=10))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        label, mark, newest, oldest = map(_widest, zip(*map(_texts, self._rows), strict=True))
        tails = [row.tail(newest, oldest) for row in self._rows]
        left = label + mark + (2 if mark else 1)
        ages = [age for row in self._rows for age in row.ages]
        axis = _Axis(
            width=max(NARROWEST, min(options.max_width, WIDEST) - left - 2 - _widest(tails)),
            unit=self._unit,
            oldest=max([*ages, self._unit]),
        )
        yield Text(" " * left + _labels(axis), style="dim")
        for row, tail in zip(self._rows, tails, strict=True):
            head = Text(f"{row.label:<{label}} ")
            head.append(f"{row.mark:<{mark}} " if mark else "", STYLES["alarm"])
            yield Text.assemble(head, _line(row, axis), f"  {tail}")
        yield from self._legend()

    def _legend(self) -> Iterator[Text]:
        points = "a restore point, the older the further right; a digit: so many in one place"
        yield Text.assemble((POINT, STYLES["ok"]), (f" {points}", "dim"))
        for sign, meaning in MARKS.items():
            if any(sign in row.mark for row in self._rows):
                yield Text.assemble((sign, STYLES["alarm"]), (f" {meaning}", "dim"))


POINT = "●"


def _texts(row: _Row) -> tuple[str, ...]:
    return row.label, row.mark, row.newest, row.oldest


def _widest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _labels(axis: _Axis) -> str:
    line = [" "] * axis.width
    for place, label in axis.ticks.items():
        begin = axis.begin(place, label)
        line[begin : begin + len(label)] = label
    return "".join(line)


def _line(row: _Row, axis: _Axis) -> Text:
    """The ticks, a sign for each restore point, and a line from the newest to the oldest."""
    places = [axis.place(age) for age in row.ages]
    signs: list[tuple[str, str]] = [("┊" if place in axis.ticks else " ", "dim") for place in range(axis.width)]
    for place in range(min(places, default=0), max(places, default=0)):
        signs[place] = ("─", "dim")
    for place in places:
        together = places.count(place)
        signs[place] = (POINT if together == 1 else str(min(together, 9)), STYLES["ok"])
    return Text.assemble(*signs)


def _rows(forecast: Forecast) -> list[_Row]:
    step = _step(forecast)
    wanted = [forecast.start + number * step for number in range(1, int((forecast.end - forecast.start) / step) + 1)]
    rows = []
    ahead = list(reversed(forecast.runs))
    held: tuple[Snapshot, ...] = ()
    before = forecast.start
    for at in wanted:
        since: list[Foreseen] = []
        while ahead and ahead[-1].at <= at:
            since.append(ahead.pop())
        held = since[-1].held if since else held
        ages = tuple(at - one.created_at for one in held if one.created_at)
        rows.append(_Row(label=_label(forecast, at, step), ages=ages, mark=_mark(forecast, since, before, at)))
        before = at
    return rows


def _step(forecast: Forecast) -> timedelta:
    """The time between two rows: whole days, but no whole weeks, which would show one weekday only."""
    days = forecast.assumed.days
    if days < MOST_ROWS / 4 and len(forecast.runs) > 2 * days:
        return days * DAY / MOST_ROWS
    step = ceil(days / MOST_ROWS)
    return (step + (step % 7 == 0)) * DAY


def _label(forecast: Forecast, at: datetime, step: timedelta) -> str:
    local = local_time(forecast, at)
    if step < DAY:
        return f"{local:%a %H:%M}"
    return f"{local:%a %d %b}" if forecast.assumed.days < 365 else f"{local:%Y-%m-%d}"


def _mark(forecast: Forecast, since: Sequence[Foreseen], before: datetime, at: datetime) -> str:
    failed = sum(run.fate is Fate.FAILED for run in since)
    parts = [f"{FAILED}{failed if failed > 1 else ''}"] if failed else []
    if any(begin < at and before < end for begin, end in forecast.outages):
        parts.append(DOWN)
    if any(run.fate is Fate.BLOCKED for run in since):
        parts.append(BLOCKED)
    return "".join(parts)
