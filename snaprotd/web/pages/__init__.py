"""The status page: HTML from the status report, and from nothing else.

Rendered here and now: no build step, no request to another host, readable without JavaScript. `page.js` only fetches
the same page again and swaps what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from math import log1p
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from snaprotd.core.words import ago, clock, count, duration, until
from snaprotd.web.pages.selection import SHOWN, Entries, Json, Selection

PER_PAGE = 250
"""Servers on one page: a browser that reads it every few seconds stays quick."""

STATIC = {
    "style.css": ("text/css; charset=utf-8", files(__package__).joinpath("style.css").read_bytes()),
    "page.js": ("text/javascript; charset=utf-8", files(__package__).joinpath("page.js").read_bytes()),
    "icon.svg": ("image/svg+xml", files(__package__).joinpath("icon.svg").read_bytes()),
}
"""What the pages link to: media type and content by name."""


def fleet_page(report: Json, query: Mapping[str, str]) -> str:
    """The page at `/`."""
    servers: Entries = report["servers"]
    selection, departed = Selection.read(query), report["departed"]
    fitting = selection.of(servers)
    first = (selection.page - 1) * PER_PAGE
    running = servers.those(lambda one: one.is_running)
    off = servers.those(lambda one: one.is_off and not one.is_running)
    return _render(
        "fleet.html",
        report,
        selection=selection,
        servers=[servers[at] for at in fitting[first : first + PER_PAGE]],
        fitting=len(fitting),
        pages=-(-len(fitting) // PER_PAGE),
        shown=SHOWN,
        some_are_paused=any(one.is_paused for one in servers.facts),
        at_work=[*running, *(one for one in departed if one["running"])],
        left_off=[*off, *(one for one in departed if one["stopped_by_us_since"] and not one["running"])],
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
