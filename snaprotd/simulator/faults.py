"""Faults by rule: which request goes wrong, how, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from textwrap import fill
from typing import Any

KINDS = {
    "lost": "the work is done, then the connection is cut without an answer",
    "cut": "nothing is done, the connection is cut",
    "late": "the connection is cut, and the work is done `delay` seconds later",
    "hang": "nothing is done, and no answer comes",
    "hang_done": "the work is done, and no answer comes",
    "status": "an error with `status` (429, 500, 503 ...) and, if set, `retry_after`; `done=1` does the work before",
    "html": "an HTML page with `status` (200); `done=1` does the work before",
    "proxy": "an error with `status` (502) in JSON that is not the provider's; `done=1` does the work before",
    "doubled": "the work is done, and again `delay` seconds later; answered with `status`, if that is an error",
    "stale": "servers are shown with the status that they had `delay` seconds before",
    "truncated": "the work is done, the answer ends in the middle",
    "empty": "a list with no results",
    "short": "a list whose count is larger than its results",
    "huge": "a body of more than 16 MiB",
    "trickle": "the answer comes a byte at a time, over `delay` seconds",
    "foreign_next": "the link to the next page leads to another host",
    "redirect": "302 to another host",
    "stuck": "the snapshot stays in progress for ever",
    "ends": "the snapshot ends with the status `word` (failed)",
    "stop_never": "the stop is acknowledged, and nothing happens",
    "start_never": "the start is acknowledged, and nothing happens",
    "slow_power": "the stop or start is acknowledged, and begins `delay` seconds later",
    "late_listing": "the new snapshot is listed only after `delay` seconds",
    "slow_delete": "204, but the snapshot is listed for `delay` seconds more",
}

FAULT_HELP = "\n".join(
    fill(f"  {kind:13} {meaning}", 78, subsequent_indent=" " * 16) for kind, meaning in KINDS.items()
)

_USUAL = {"html": 200, "doubled": 200, "proxy": 502}
"""The status of those kinds whose own is not 500."""

_EXAMPLE = "late:POST:/snapshots/:delay=30,times=2"


@dataclass(kw_only=True)
class Fault:
    """One rule. It strikes `times` requests that match it (None: all), after letting `skip` of them pass."""

    kind: str
    method: str = "*"
    path: str = "*"
    """A shell pattern on the path below the API's root, e.g. `/snapshots/*`."""
    action: str = ""
    """Only power requests with this action."""
    server_id: str = ""
    """Only requests about this server."""
    times: int | None = 1
    skip: int = 0
    delay: float = 30.0
    """Seconds of the simulated clock; they are divided by the world's speed."""
    status: int = 0
    """0: the one that is usual with the kind."""
    retry_after: str = ""
    done: bool = False
    word: str = "failed"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`{self.kind}` is no kind of fault; there are {', '.join(KINDS)}")
        self.status = self.status or _USUAL.get(self.kind, 500)
        if not 200 <= self.status <= 599:
            raise ValueError(f"`status={self.status}`: a number from 200 to 599 is wanted")
        if not 0 <= self.delay < float("inf") or self.skip < 0 or (self.times is not None and self.times < 0):
            raise ValueError("`delay`, `skip` and `times`: a number is wanted, from 0")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `KIND[:METHOD[:PATH[:KEY=VALUE,...]]]`. Raises ValueError with a sentence for the user."""
        kind, method, path, options = ([*text.split(":", 3), "", "", ""])[:4]
        fault = cls(kind=kind, method=method.upper() or "*", path=path or "*")
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            fault = _with(fault, key.strip(), value.strip())
        return fault

    def strikes(self, method: str, path: str, action: str, server_id: str) -> bool:
        """Whether this request is struck; counts it."""
        fits = (
            self.method in ("*", method)
            and fnmatchcase(path, self.path)
            and self.action in ("", action)
            and self.server_id in ("", server_id)
        )
        if not fits or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def _with(fault: Fault, key: str, value: str) -> Fault:
    known = {field.name for field in fields(Fault)} - {"kind", "method", "path"}
    if key not in known:
        raise ValueError(f"`{key}` is no option of a fault; there are {', '.join(sorted(known))}; e.g. {_EXAMPLE}")
    return replace(fault, **{key: _read(key, value)})


def _read(key: str, value: str) -> Any:
    if key == "done":
        return value not in ("", "0", "false", "no")
    if key == "times" and value == "always":
        return None
    reader = {"times": int, "skip": int, "status": int, "delay": float}.get(key, str)
    try:
        return reader(value)
    except ValueError:
        raise ValueError(f"`{key}={value}`: a number is wanted; e.g. {_EXAMPLE}") from None
