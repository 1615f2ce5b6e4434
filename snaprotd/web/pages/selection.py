"""The servers of a report as pages need them: kept as text, chosen and put in order by a few facts of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload
from urllib.parse import urlencode

Json = Mapping[str, Any]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(value: Any) -> bytes:
    """As JSON. What no encoding has, such as a byte of a file's name, is replaced: no page fails for it."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


class Facts(NamedTuple):
    """Of one server: what pages choose by, and put in order."""

    name: str
    names: str
    """All that it is called, for whoever looks for a part of it."""
    state: str
    is_running: bool
    is_off: bool
    is_paused: bool
    newest_at: str
    free: int
    next_run: str


class Entries(Sequence[Json]):
    """The servers of a report. Each is kept as the JSON that leaves, and read again where it is shown.

    Of thousands that is a quarter of the memory that the values take, and nothing that the garbage collector, which
    stops everybody, would go through.
    """

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.facts: list[Facts] = []

    def append(self, server: Json) -> None:
        self.texts.append(encoded(server))
        self.facts.append(_facts_of(server))

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, at: int) -> Json: ...
    @overload
    def __getitem__(self, at: slice) -> list[Json]: ...
    def __getitem__(self, at: int | slice) -> Json | list[Json]:
        texts = self.texts[at]
        return json.loads(texts) if isinstance(texts, bytes) else [json.loads(one) for one in texts]

    def those(self, fits: Callable[[Facts], bool]) -> list[Json]:
        """The servers whose facts fit, in the order of the report."""
        return [json.loads(text) for text, facts in zip(self.texts, self.facts, strict=True) if fits(facts)]


def _facts_of(server: Json) -> Facts:
    newest, slots = server["newest_completed"], server["slots"]
    return Facts(
        name=server["name"],
        names=f"{server['name']} {server['server_name'] or ''} {server['id']}".casefold(),
        state=server["state"],
        is_running=server["running"] is not None,
        is_off=server["stopped_by_us_since"] is not None,
        is_paused=server["paused"],
        newest_at=newest["created_at"] if newest else "",
        free=slots["free"] if slots else -1,
        next_run=server["next_run"] or _LAST,
    )


_LAST = "~"
"""Sorts after every time."""

SEVERITY = {"alarm": 0, "attention": 1, "ok": 2, "paused": 3}

SHOWN = {"all": "all", "problems": "with problems", "running": "running now", "off": "held off", "paused": "paused"}

_SHOWS: Mapping[str, Callable[[Facts], bool]] = {
    "all": lambda _: True,
    "problems": lambda server: server.state in ("alarm", "attention"),
    "running": lambda server: server.is_running,
    "off": lambda server: server.is_off,
    "paused": lambda server: server.is_paused,
}

_ORDERS: Mapping[str, Callable[[Facts], Any]] = {
    "state": lambda server: SEVERITY[server.state],
    "name": lambda _: 0,
    "newest": lambda server: server.newest_at,
    "slots": lambda server: server.free,
    "next": lambda server: server.next_run,
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

    def of(self, servers: Entries) -> list[int]:
        """Where in the report the servers stand that fit, in the order in which they are shown."""
        wanted, shows, order = self.q.casefold(), _SHOWS[self.show], _ORDERS[self.sort]
        fitting = [at for at, one in enumerate(servers.facts) if shows(one) and (not wanted or wanted in one.names)]
        return sorted(fitting, key=lambda at: (order(servers.facts[at]), servers.facts[at].name))
