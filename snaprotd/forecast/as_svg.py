"""A forecast as a drawing: each snapshot a bar from its creation to its deletion, in as many lanes as slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import starmap
from textwrap import wrap

from snaprotd.core.model import Snapshot
from snaprotd.forecast.expect import Forecast, Life
from snaprotd.forecast.runs import Fate, Foreseen
from snaprotd.forecast.words import DAY, Named, local_time, moment_of, rules_of, sentences, title_of

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --ink: #1c2321; --quiet: #59635f; --line: #dcdfdb;
  --ours: #1f6f5c; --others: #8a5a13; --alarm: #b3261e; --down: #fdeceb; }
@media (prefers-color-scheme: dark) { :root { --ground: #131716; --ink: #e6eae8; --quiet: #a0aaa6; --line: #333b38;
  --ours: #5cc2a3; --others: #dca552; --alarm: #ff8f86; --down: #3a1d1b; } }
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.name { font-size: 17px; font-weight: 600; } .quiet { fill: var(--quiet); font-size: 12px; }
.alarm { fill: var(--alarm); } .ground { fill: var(--ground); } .lane { fill: var(--line); opacity: .35; }
.grid { stroke: var(--line); }
.ours { fill: var(--ours); } .others { fill: var(--others); opacity: .8; } .down { fill: var(--down); }
.hatch { stroke: var(--alarm); stroke-width: 1.5; opacity: .35; }
.cross { stroke: var(--alarm); stroke-width: 2; } .missed { fill: none; stroke: var(--alarm); stroke-width: 1.5; }
.blocked { fill: var(--alarm); }
"""

HATCH = (
    '<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="down" width="8" height="8"/><line class="hatch" x1="0" y1="0" x2="0" y2="8"/></pattern>'
)

MARGIN, LEFT = 24.0, 84.0
"""Around everything, and left of the bars, where the lanes have their names. All lengths are in pixels."""
LANE, BAR = 26, 18
NARROW_PLOT, WIDE_PLOT = 900, 4000
FOR_A_RUN = 10.0
"""As wide as a run should be drawn, where there is room."""
LETTER, SMALL_LETTER = 6.6, 6.7
"""How wide the letters of the sentences and of the key are, about."""

STEPS = (1, 2, 7, 14, 28, 91, 182, 365, 730)
"""Days between two labels of the time axis."""
BETWEEN_LABELS = 64


def drawing(forecasts: Sequence[Named]) -> str:
    """A file of its own, readable in light and in dark: each snapshot is a bar from its creation to its deletion."""
    panels = [_Panel(names, forecast) for names, forecast in forecasts]
    width, height = max(panel.width for panel in panels), sum(panel.height for panel in panels)
    size = f'width="{width:g}" height="{height:g}"'
    title = "; ".join(f"{title_of(names)}: {rules_of(forecast)}" for names, forecast in forecasts)
    told = " ".join(one.text for _, forecast in forecasts for one in sentences(forecast))
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(f"Forecast of {title}")}</title>',
        f'<desc id="desc">{escape(told)}</desc>',
        f"<style>{STYLE}</style>",
        f"<defs>{HATCH}</defs>",
        f'<rect class="ground" {size}/>',
    ]
    return "\n".join([*head, *_stacked(panels), "</svg>", ""])


def _stacked(panels: Iterable[_Panel]) -> Iterator[str]:
    top = 0.0
    for panel in panels:
        yield f'<g transform="translate(0 {top:g})">'
        yield from panel.parts()
        yield "</g>"
        top += panel.height


class _Panel:
    """One forecast: its sentences, the runs that gave no snapshot, a lane for each slot, the time, and a key."""

    def __init__(self, names: Sequence[str], forecast: Forecast) -> None:
        self._names, self._forecast = names, forecast
        self._plot = min(max(FOR_A_RUN * len(forecast.runs), NARROW_PLOT), WIDE_PLOT)
        self.width = MARGIN + LEFT + self._plot + MARGIN
        letters = int((NARROW_PLOT + LEFT) / LETTER)
        self._told = [(line, one.is_alarm) for one in sentences(forecast) for line in wrap(one.text, letters)]
        self._bars = MARGIN + 44 + 18 * len(self._told) + 36
        """Where the lanes begin, from the top."""
        self._foot = self._bars + forecast.limit * LANE
        self.height = self._foot + 76 + MARGIN

    def parts(self) -> Iterator[str]:
        yield from self._head()
        yield from self._slots()
        yield from self._outages()
        yield from self._time()
        yield from starmap(self._bar_of_one_that_stays, enumerate((*self._forecast.foreign, *self._forecast.held)))
        for life, lane in _in_lanes(self._forecast):
            yield self._bar(life, lane)
        yield from filter(None, map(self._sign, self._forecast.runs))
        yield from self._key()

    def _x(self, at: datetime) -> float:
        forecast = self._forecast
        share = (at - forecast.start) / (forecast.end - forecast.start)
        return round(MARGIN + LEFT + self._plot * min(max(share, 0.0), 1.0), 1)

    def _head(self) -> Iterator[str]:
        yield _text(MARGIN, MARGIN + 14, title_of(self._names), "name")
        yield _text(MARGIN, MARGIN + 34, rules_of(self._forecast), "quiet")
        for number, (line, is_alarm) in enumerate(self._told):
            yield _text(MARGIN, MARGIN + 60 + 18 * number, line, "alarm" if is_alarm else "")

    def _slots(self) -> Iterator[str]:
        if any(run.fate is not Fate.TAKEN for run in self._forecast.runs):
            yield _text(MARGIN, self._bars - 10, "no snapshot", "quiet")
        for lane in range(self._forecast.limit):
            top = self._bars + lane * LANE
            yield _text(MARGIN, top + 17, f"slot {lane + 1}", "quiet")
            yield f'<rect class="lane" x="{MARGIN + LEFT:g}" y="{top + 4:g}" width="{self._plot:g}" height="{BAR}"/>'

    def _outages(self) -> Iterator[str]:
        top = self._bars - 24
        for begin, end in self._forecast.outages:
            left, right = self._x(begin), self._x(end)
            words = f"the daemon is down from {moment_of(self._forecast, begin)} to {moment_of(self._forecast, end)}"
            yield _rect("outage", left, top, right - left, self._foot - top, words, 'fill="url(#hatch)"')

    def _time(self) -> Iterator[str]:
        forecast, days = self._forecast, self._forecast.assumed.days
        step = next((one for one in STEPS if self._plot / days * one >= BETWEEN_LABELS), STEPS[-1])
        form = "%d %b" if days < 365 else "%b %Y"
        for number in range(0, days + 1, step):
            at = forecast.start + number * DAY
            x = self._x(at)
            yield f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{self._bars - 4:g}" y2="{self._foot + 4:g}"/>'
            yield _text(x, self._foot + 20, _distance(number), "", "middle")
            yield _text(x, self._foot + 36, local_time(forecast, at).strftime(form), "quiet", "middle")

    def _bar_of_one_that_stays(self, number: int, one: Snapshot) -> str:
        lane = self._forecast.limit - 1 - number
        why = "held" if one in self._forecast.held else "not made by snaprotd"
        words = f"{one.name}, {why}: keeps its slot"
        return self._lane_rect("bar others", lane, self._forecast.start, self._forecast.end, words)

    def _bar(self, life: Life, lane: int) -> str:
        fate = f"{life.reason}, on {moment_of(self._forecast, life.end)}" if life.end else "still there at the end"
        words = f"{life.snapshot.name}: {fate}"
        return self._lane_rect("bar ours", lane, life.begin, life.end or self._forecast.end, words)

    def _lane_rect(self, kind: str, lane: int, begin: datetime, end: datetime, words: str) -> str:
        left = self._x(begin)
        width = max(self._x(end) - left - 1, 1)
        return _rect(kind, left, self._bars + lane * LANE + (LANE - BAR) / 2, width, BAR, words)

    def _sign(self, run: Foreseen) -> str:
        """What is drawn above the lanes for a run that gave no snapshot."""
        if run.fate is Fate.TAKEN:
            return ""
        return _signed(run.fate, self._x(run.at), self._bars - 14, f"{moment_of(self._forecast, run.slot)}: {run.fate}")

    def _key(self) -> Iterator[str]:
        forecast, y = self._forecast, self._foot + 64
        swatch = f'<rect y="{y - 10:g}" width="26" height="11" rx="3"'
        entries = [(f'{swatch} class="ours"/>', "a snapshot: above each day stands what you could go back to")]
        stay = {"somebody else's": forecast.foreign, "held": forecast.held}
        if any(stay.values()):
            words = " or ".join(words for words, those in stay.items() if those)
            entries.append((f'{swatch} class="others"/>', words))
        if forecast.outages:
            entries.append((f'{swatch} fill="url(#hatch)"/>', "the daemon is down"))
        fates = dict.fromkeys(run.fate for run in forecast.runs if run.fate is not Fate.TAKEN)
        entries += [(_signed(fate, 20, y - 4, fate), fate) for fate in fates]
        x = MARGIN
        for sign, words in entries:
            yield f'<g transform="translate({x:g} 0)">{sign}{_text(34, y, words, "quiet")}</g>'
            x += 34 + SMALL_LETTER * len(words) + 12


def _in_lanes(forecast: Forecast) -> Iterator[tuple[Life, int]]:
    """Each of our snapshots with the first lane that is free. A new one is there before an old one is deleted."""
    free_from: list[datetime | None] = [forecast.start] * (forecast.limit - len(forecast.foreign) - len(forecast.held))
    for life in forecast.lives:
        free = [lane for lane, since in enumerate(free_from) if since and since < life.begin]
        free += [lane for lane, since in enumerate(free_from) if since and since == life.begin]
        free_from[free[0]] = life.end
        yield life, free[0]


def _distance(days: int) -> str:
    """How far a day is from the start, in the largest unit that is whole."""
    if days == 0:
        return "now"
    for unit, letter in ((365, "y"), (7, "w")):
        if days % unit == 0:
            return f"{days // unit} {letter}"
    return f"{days} d"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _rect(kind: str, x: float, y: float, width: float, height: float, words: str, look: str = 'rx="3"') -> str:
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="{kind}" {place} {look}><title>{escape(words)}</title></rect>'


def _signed(fate: Fate, x: float, y: float, words: str) -> str:
    title = f"<title>{escape(words)}</title>"
    if fate is Fate.FAILED:
        return f'<path class="cross" d="M{x - 4:g} {y - 4:g} l8 8 m0 -8 l-8 8">{title}</path>'
    if fate is Fate.MISSED:
        return f'<circle class="missed" cx="{x:g}" cy="{y:g}" r="3.5">{title}</circle>'
    return f'<rect class="blocked" x="{x - 4:g}" y="{y - 4:g}" width="8" height="8">{title}</rect>'
