"""What may be believed of an answer's body before anything in it is read: its size, its depth, its words.

Whatever answers may be hostile, or carry what somebody hostile has named. Words from outside are made fit to be shown
here; everything else in the house shows them as they are.
"""

from __future__ import annotations

import json
import re
from typing import Any

from snaprotd.core.words import LONGEST_TEXT, UNSEEN, in_one_line, printable
from snaprotd.logs import redactor

MAX_BODY = 16 * 1024 * 1024
"""Bytes. The largest honest answer, a page of 100 entries, is a thousandth of that."""
USUAL_BODY = 256 * 1024
"""Bytes that may be cut into as many pieces as they like. An honest page has 30,000."""
MOST_VALUES = 1_000_000
"""What one body may be made of. In memory each takes many times the bytes that it takes in JSON."""
DEEPEST = 32
"""Lists and objects within one another. An honest answer has four."""
MOST_DIGITS = 40
LARGEST_SIZE = 10**12
"""Megabytes of a snapshot that are believed."""
LONGEST_ID = 200
"""Characters."""
LONGEST_ERROR = 64 * 1024
"""Bytes of an error's body: a longer one is nobody's own words."""
LONGEST_READ = 8 * 1024
"""Characters of an error's words that are looked at before they are cut."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class UnreadableError(ValueError):
    """An answer, or one entry of a list, is not of the published shape. Its text is fit to be shown.

    `server_id` is the server that the entry is about; None where even that cannot be told.
    """

    def __init__(self, message: str, *, server_id: str | None = None) -> None:
        super().__init__(said(message, 3 * LONGEST_TEXT))
        self.server_id = server_id


# -- words -----------------------------------------------------------------------------------------------------------


def said(text: str, longest: int = LONGEST_TEXT) -> str:
    """The words of an error, as they may be shown: without any secret, printable, on one line, not too long.

    Secrets go before anything is cut: half of one would not be found.
    """
    return in_one_line(redactor.clean(text[:LONGEST_READ]), longest)


def name_in(value: object, longest: int = LONGEST_TEXT) -> str:
    """A name or a word of the provider's, as it may be shown; empty where there is none.

    What had to be changed can be taken for no other name: see `printable`.
    """
    return printable(redactor.known(value[: longest + 1]), longest) if isinstance(value, str) else ""


def prose_in(value: object) -> str:
    """A text of many words; empty where there is none."""
    return in_one_line(redactor.known(value[:LONGEST_READ])) if value and isinstance(value, str) else ""


def plain_in(value: object, longest: int) -> str:
    """A text that tells one thing from another, to the letter; empty where it is not fit to be shown."""
    return value if isinstance(value, str) and UNSEEN not in value and value == name_in(value, longest) else ""


def reference_in(value: object) -> int | str | None:
    """An id as the provider gave it; None where it is none, or not to be shown: changed, it might be another's."""
    if type(value) is not int and type(value) is not str:
        return None
    return value if plain_in(str(value), LONGEST_ID).strip() else None


# -- JSON ------------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Any:
    """Raises `UnreadableError` for anything but JSON of a likely size: a proxy's HTML, a body that was cut.

    In UTF-8, as it is exchanged (RFC 8259, 8.1): in another encoding other bytes are brackets than those counted.
    """
    _refuse_unlikely(body)
    try:
        text = body.decode("utf-8-sig", "surrogatepass")
        return json.loads(text, parse_int=_integer, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        start = body.lstrip()[:1]
        raise UnreadableError("HTML instead of JSON" if start == b"<" else "not JSON, or cut short") from error


def _refuse_unlikely(body: bytes) -> None:
    """Count before anything is parsed. Quick, whatever stands there."""
    opened = body.count(b"[") + body.count(b"{")
    if opened + body.count(b",") > MOST_VALUES:
        raise UnreadableError(f"it has more than {MOST_VALUES} values")
    if opened <= DEEPEST:
        return
    brackets = _without_strings(body).translate(None, _ALL_BUT_BRACKETS)
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if len(brackets) > DEEPEST:
        raise UnreadableError(f"it has more than {DEEPEST} lists and objects within one another, or was cut short")


def _without_strings(body: bytes) -> bytes:
    """Where no quote is written within a string, every other piece between quotes is one."""
    if b"\\" in body or len(body) > USUAL_BODY:
        return _STRING.sub(b"", body)
    return b"".join(body.split(b'"')[::2])


def _integer(digits: str) -> int | None:
    """None for one that nobody means: it makes its own entry doubtful, not the whole answer unreadable."""
    return int(digits) if len(digits) <= MOST_DIGITS else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One in which a key stands twice would be read otherwise by others."""
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a key that stands twice")
    return read
