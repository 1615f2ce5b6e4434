"""Lengths of time, instants, ids, hosts, kinds of files, as they are written: on the page, in tables and messages."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any
from zoneinfo import ZoneInfo

Json = dict[str, Any]
"""An object of JSON: plain values by name."""

STRANGER = "bears our name, not in the ledger"
"""Of a snapshot that is named as ours are, and is none."""

NOT_OURS = "not made by snaprotd"

OTHER_LETTERS = "named as ours are, in other letters, and not in the ledger"
"""Of one that a provider may have renamed, which only the ledger could have told."""


LONGEST_TEXT = 200
"""Characters of a text from outside that are shown."""
UNSEEN = "\ufffd"
"""What stands for a character of such a text that a terminal would obey, or that nobody would see."""

_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What Unicode calls printable, and is not to be seen."""


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text from outside as it may be shown anywhere: on one line, not too long, nothing in it that repaints.

    Each character that cannot be shown leaves a sign in its place, and so does an end that is cut off: a text that is
    not as it was given can be taken for no other, and for no name of ours.
    """
    if len(text) > longest:
        text = text[: longest - 1] + "\u2026"
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(UNSEEN, "".join(char if char.isprintable() else UNSEEN for char in text))


def in_one_line(text: str, longest: int = LONGEST_TEXT) -> str:
    """Prose from outside: `printable`, its lines and blanks as single blanks."""
    return printable(" ".join(text[: 2 * longest].split()), longest)


def duration(seconds: float | None) -> str:
    """`40 s`, `6 min`, `5 h`, `12 d`, `3 y`: one unit, rounded down; a dash for None."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    for size, unit, until_ in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800), (86400, "d", 730 * 86400)):
        if whole < until_:
            return f"{whole // size} {unit}"
    return f"{whole // (365 * 86400)} y"


def ago(text: str | None, now: datetime) -> str:
    """How long before `now` an instant, in ISO format, was; `never` for None."""
    return "never" if text is None else f"{duration((now - datetime.fromisoformat(text)).total_seconds())} ago"


def until(text: str | None, now: datetime) -> str:
    """How long after `now` an instant will be; a dash for None."""
    if text is None:
        return "-"
    seconds = (datetime.fromisoformat(text) - now).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else "due"


def clock(text: str, zone: str) -> str:
    """An instant, in ISO format, as a clock in the zone shows it: `Thu 2025-01-16 03:30 CET`."""
    return f"{datetime.fromisoformat(text).astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"


UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
"""What a length of time is written in, by the users of a configuration or of a command."""


DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"
"""A length of time as it is written in a configuration."""


def read_duration(text: str) -> timedelta | None:
    """A length as it is written in a configuration, `90s` or `6h`, at the most the longest there is; else None."""
    found = re.fullmatch(DURATION, text)
    if found is None:
        return None
    try:
        return float(found[1]) * UNITS[found[2]]
    except OverflowError:
        return timedelta.max


def shown_duration(value: timedelta) -> str:
    """A length as it is written in a configuration: `90s`, `6h`, `1d`."""
    for unit in ("d", "h", "m", "s", "ms"):
        number, rest = divmod(value, UNITS[unit])
        if not rest and number:
            return f"{number}{unit}"
    return "0s"


def free_slots(held: int, limit: int) -> str:
    """`2 of 5 slots free`."""
    return f"{max(0, limit - held)} of {limit} slots free"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 snapshot`, `2 snapshots`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `web, db and cache`."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


_INTEGER = re.compile("0|[1-9][0-9]{0,39}")


def plain_id(text: str) -> int | str:
    """An id as users know it: the provider's integers as integers, its UUIDs as text."""
    return int(text) if _INTEGER.fullmatch(text) else text


def zulu(instant: datetime | None) -> str | None:
    return None if instant is None else f"{instant.astimezone(UTC).isoformat(timespec='seconds')[:-6]}Z"


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine, as far as the name alone tells: nothing is looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def kind_of_file(mode: int) -> str:
    """What an inode of this mode is where it is no regular file, such as `a pipe`; empty where it is one."""
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


_HOST = r"(?:\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\[\]:,/?#@]*)(?::[0-9]*)?"
_DATABASE_URL = re.compile(rf"(\w+://)(?:[^@/?#]*@)?({_HOST}(?:,{_HOST})*(?:/[^@?#]*)?)(?:\?[^@#]*)?")


def without_user(url: str) -> str | None:
    """The URL of a database without user, password and parameters.

    None where a sign in one of these would have to be written otherwise: where its host begins is anybody's guess then.
    """
    found = _DATABASE_URL.fullmatch(url)
    return found[1] + found[2] if found else None
