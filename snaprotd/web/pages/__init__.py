"""The status page: HTML from the status report, and from nothing else.

Rendered here and now: no build step, no request to another host, readable without JavaScript. `page.js` only fetches
the same page again and swaps what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from math import log1p
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from snaprotd.core.words import ago, clock, count, duration, until

Json = Mapping[str, Any]

PER_PAGE = 250
"""Servers on one page: a browser that reads it every few seconds stays quick."""

STATIC = {
    "style.css": ("text/css; charset=utf-8", files(__package__).joinpath("style.css").read_bytes()),
    "page.js": ("text/javascript; charset=utf-8", files(__package__).joinpath("page.js").read_bytes()),
    "icon.svg": ("image/svg+xml", files(__package__).joinpath("icon.svg").read_bytes()),
}
"""What the pages link to: media type and content by name."""

SEVERITY = {"alarm": 0, "attention": 1, "ok": 2, "paused": 3}

SHOWN = {"all": "all", "problems": "with problems", "running": "running now", "off": "held off", "paused": "paused"}

_SHOWS: Mapping[str, Callable[[Json], bool]] = {
    "all": lambda server: True,
    "problems": lambda server: server["state"] in ("alarm", "attention"),
    "running": lambda server: server["running"] is not None,
    "off": lambda server: server["stopped_by_us_since"] is not None,
    "paused": lambda server: server["paused"],
}

_LAST = "~"
"""Sorts after every time."""

_ORDERS: Mapping[str, Callable[[Json], Any]] = {
    "state": lambda server: SEVERITY[server["state"]],
    "name": lambda server: 0,
    "newest": lambda server: server["newest_completed"]["created_at"] if server["newest_completed"] else "",
    "slots": lambda server: server["slots"]["free"] if server["slots"] else -1,
    "next": lambda server: server["next_run"] or _LAST,
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which servers are shown, and in which order: the query of the page's address."""

    q: str = ""
    """Part of a name or an id."""
    show: str = "all"
    sort: str = "state"
    page: int = 1

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Selection:
        """What cannot be understood is left at its default."""
        page = query.get("page", "1")
        return cls(
            q=query.get("q", "").strip(),
            show=query["show"] if query.get("show") in SHOWN else "all",
            sort=query["sort"] if query.get("sort") in _ORDERS else "state",
            page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 6 else 1,
        )

    def address(self, **changes: str | int) -> str:
        """The address of the page with these changes."""
        chosen = {**vars(self), "page": 1, **changes}
        kept = {key: value for key, value in chosen.items() if value != getattr(Selection(), key)}
        return f"/?{urlencode(kept)}" if kept else "/"

    def of(self, servers: Sequence[Json]) -> list[Json]:
        wanted = self.q.casefold()
        fitting = [one for one in servers if _SHOWS[self.show](one) and (not wanted or wanted in _names(one))]
        return sorted(fitting, key=lambda server: (_ORDERS[self.sort](server), server["name"]))


def _names(server: Json) -> str:
    return f"{server['name']} {server['server_name'] or ''} {server['id']}".casefold()


def fleet_page(report: Json, query: Mapping[str, str]) -> str:
    """The page at `/`."""
    selection = Selection.read(query)
    fitting = selection.of(report["servers"])
    shown = (*report["servers"], *report["departed"])
    first = (selection.page - 1) * PER_PAGE
    return _render(
        "fleet.html",
        report,
        selection=selection,
        servers=fitting[first : first + PER_PAGE],
        fitting=len(fitting),
        pages=-(-len(fitting) // PER_PAGE),
        shown=SHOWN,
        at_work=[one for one in shown if one["running"]],
        left_off=[one for one in shown if one["stopped_by_us_since"] and not one["running"]],
    )


def server_page(report: Json, server: Json) -> str:
    """The page of one server."""
    return _render("server.html", report, server=server)


def missing_page(report: Json, text: str) -> str:
    return _render("missing.html", report, text=text)


def _render(template: str, report: Json, **values: Any) -> str:
    now = datetime.fromisoformat(report["generated_at"])
    return _TEMPLATES.get_template(template).render(report=report, now=now, **values)


# -- what the templates use --------------------------------------------------------------------------------------------


def server_address(server: Json) -> str:
    return f"/servers/{quote(str(server['id']), safe='')}"


AXIS = 220.0
"""Width of a timeline, in its own units."""
OLDEST = 2 * 366 * 86400.0
"""Seconds: what is older stands at the left end."""
TICKS = ((86400, "1 d"), (7 * 86400, "1 w"), (30 * 86400, "1 mo"), (365 * 86400, "1 y"))


def place(seconds: float) -> float:
    """Where an age stands on a timeline: now is at the right, and each step to the left is many times longer."""
    bounded = min(max(seconds, 0.0), OLDEST)
    return round(AXIS * (1 - log1p(bounded / 3600) / log1p(OLDEST / 3600)), 1)


def age_of(now: datetime, text: str) -> float:
    return (now - datetime.fromisoformat(text)).total_seconds()


_TEMPLATES = Environment(
    loader=PackageLoader("snaprotd.web", "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(
    AXIS=AXIS, TICKS=TICKS, place=place, age_of=age_of, server_address=server_address, count=count
)
_TEMPLATES.filters.update(duration=duration, ago=ago, until=until, clock=clock)
