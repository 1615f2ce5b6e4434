"""What the provider's answers say: JSON to nouns. Nothing here asks, waits or knows the time by itself.

The published pages and the provider's own clients disagree in places (an integer `id` or a `uuid`), and any field may
change. What cannot be read for certain is refused here, with the server it concerns where that much is readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from snaprotd.core.model import Server, ServerState, Snapshot, SnapshotState
from snaprotd.provider import TokenOwner

LONGEST_MESSAGE = 300
"""Characters of the provider's own words that go into a message of ours."""

MOST_DIGITS = 40
LONGEST_ID = 200
"""Characters."""


_SERVER_STATES = {
    "active": ServerState.RUNNING,
    "stopped": ServerState.STOPPED,
    "restoring": ServerState.RESTORING,
    "suspended": ServerState.SUSPENDED,
}
_ON_THE_WAY = (
    "in_progress",
    "pending",
    "queued",
    "scheduled",
    "waiting",
    "requested",
    "accepted",
    "starting",
    "initializing",
    "preparing",
    "creating",
    "processing",
    "running",
    "saving",
    "uploading",
    "finalizing",
)
"""Words for a snapshot that is still to be made or being made. Only the first is published."""
_SNAPSHOT_STATES = {
    "completed": SnapshotState.COMPLETED,
    "failed": SnapshotState.FAILED,
    **dict.fromkeys(_ON_THE_WAY, SnapshotState.IN_PROGRESS),
}
"""What is not here is a word that nobody has defined: it neither deletes anything nor lets anything be deleted."""


class UnreadableError(ValueError):
    """An answer, or one entry of a list, is not of the published shape.

    `server_id` is the server that the entry is about; None where even that cannot be told.
    """

    def __init__(self, message: str, *, server_id: str | None = None) -> None:
        super().__init__(message)
        self.server_id = server_id


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list."""

    entries: list[Any]
    next: str | None = None
    has_count: bool = False
    count: object = None
    """How many entries all pages are to have together, as the provider says; compared, never calculated with."""


def read_json(body: bytes) -> Any:
    """Raises `UnreadableError` for anything but JSON: a proxy's HTML, a body that was cut."""
    try:
        answer = json.loads(body, parse_int=_integer)
        if b"\\ud" in body.lower():
            # Half of a surrogate pair is no text: it could be neither saved nor shown.
            answer = json.loads(json.dumps(answer, ensure_ascii=False).encode(errors="replace"), parse_int=_integer)
        return answer
    except (ValueError, RecursionError) as error:
        start = body.lstrip()[:1]
        raise UnreadableError("HTML instead of JSON" if start == b"<" else "not JSON, or cut short") from error


def _integer(digits: str) -> int | None:
    """None for one that nobody means: it makes its own entry doubtful, not the whole answer unreadable."""
    return int(digits) if len(digits) <= MOST_DIGITS else None


def read_page(body: Any) -> Page:
    """A page of Django REST framework, or a bare list."""
    if isinstance(body, list):
        return Page(entries=body)
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        raise UnreadableError("no list under `results`")
    following = body.get("next") or None
    if not isinstance(following, str | None):
        raise UnreadableError("`next` is not a URL")
    return Page(entries=body["results"], next=following, has_count="count" in body, count=body.get("count"))


def read_server(entry: Any, *, asked: str | None = None, known_as: Collection[str] = ()) -> Server:
    """`asked` is the id that the server was asked for by, where there is one: the answer must carry it, or another id
    that the same server is known by.
    """
    if not isinstance(entry, dict):
        raise UnreadableError("a server that is no JSON object")
    refs = _references(entry, asked)
    if not refs:
        raise UnreadableError("a server without an id")
    ref = refs[0]
    if asked is not None and not {str(ref) for ref in refs} & {asked, *known_as}:
        raise UnreadableError(f"server {str(ref)!r} in place of {asked!r}")
    status = _text(entry.get("status"))
    return Server(
        id=str(ref),
        ref=ref,
        name=_text(entry.get("name")) or _text(entry.get("hostname")),
        state=server_state(status),
        status=status,
        hostname=_text(entry.get("hostname")),
        ip_address=_text(entry.get("ip_address")),
        also=refs[1:],
    )


def read_snapshot(entry: Any, *, asked: str | None = None) -> Snapshot:
    """`asked` is the id of the server whose snapshots were asked for, where there is one.

    A snapshot without a readable id or name is refused: it might be one of ours that must be recognised. One without
    a status stays, in no known state: it holds a slot, and is neither kept as completed nor deleted.
    """
    if not isinstance(entry, dict):
        raise UnreadableError("a snapshot that is no JSON object")
    server = entry.get("server")
    of = server if isinstance(server, dict) else {"id": server}
    server_ids = [str(ref) for ref in _references(of, asked)]
    if not server_ids:
        raise UnreadableError("a snapshot without a server")
    server_id, *server_also = server_ids
    ids, name = [str(ref) for ref in _references(entry, None)], entry.get("name")
    if not ids:
        raise UnreadableError(f"a snapshot of server {server_id} without an id", server_id=server_id)
    if not isinstance(name, str):
        raise UnreadableError(f"snapshot {ids[0]} of server {server_id} without a name", server_id=server_id)
    status = _text(entry.get("status"))
    return Snapshot(
        id=ids[0],
        server_id=server_id,
        server_name=_text(of.get("name")),
        name=name,
        state=snapshot_state(status),
        status=status,
        size_mb=_size(entry.get("size_mb")),
        created_at=read_instant(entry.get("created_at")),
        description=_text(entry.get("description")),
        also=tuple(ids[1:]),
        server_also=tuple(server_also),
    )


def server_state(status: str) -> ServerState:
    """What the provider's word for a server means; a word that is not published is one between two states."""
    return _SERVER_STATES.get(status, ServerState.BETWEEN)


def snapshot_state(status: str) -> SnapshotState:
    """What the provider's word for a snapshot means."""
    return _SNAPSHOT_STATES.get(status, SnapshotState.UNKNOWN)


def read_created(body: Any, server: Server, name: str) -> Snapshot:
    """The answer to a create. What carries an id is the snapshot that was asked for, whatever else it says.

    Raises `UnreadableError` where there is no id in it.
    """
    outer = body if isinstance(body, dict) else {}
    inner = outer.get("snapshot")
    entry = next((one for one in (outer, inner) if isinstance(one, dict) and _references(one, None)), None)
    if entry is None:
        raise UnreadableError("no snapshot with an id")
    ids = [str(ref) for ref in _references(entry, None)]
    status = _text(entry.get("status"))
    return Snapshot(
        id=ids[0],
        also=tuple(ids[1:]),
        server_id=server.id,
        server_name=server.name,
        name=_text(entry.get("name")) or name,
        state=snapshot_state(status),
        status=status,
        size_mb=_size(entry.get("size_mb")),
        created_at=read_instant(entry.get("created_at")),
        description=_text(entry.get("description")),
    )


def read_token_owner(body: Any) -> TokenOwner:
    if not isinstance(body, dict):
        raise UnreadableError("an account that is no JSON object")
    account, token = (part if isinstance(part, dict) else {} for part in (body.get("account"), body.get("token")))
    return TokenOwner(
        email=_text(account.get("email")),
        token_name=_text(token.get("name")),
        permissions=_permissions(token.get("permissions")),
    )


def read_instant(value: object) -> datetime | None:
    """ISO 8601 with its zone, as UTC. None for anything else: a time without a zone is not an instant."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def error_text(body: bytes) -> str:
    """The provider's own words: `{"detail": "..."}` or `{"field": ["...", ...]}`, on one line. Empty where none."""
    try:
        answer = read_json(body)
    except UnreadableError:
        return ""
    if isinstance(answer, dict):
        fields = (
            [answer["detail"]] if "detail" in answer else [f"{key}: {_joined(said)}" for key, said in answer.items()]
        )
        return _one_line("; ".join(_joined(said) for said in fields))
    return _one_line(_joined(answer))


def speaks_of_a_limit(body: bytes) -> bool:
    """Whether an error says that there are too many of something."""
    return re.search(r"limit|maximum|quota|exceed|too many|no free|full\b", error_text(body), re.IGNORECASE) is not None


def is_own_error(body: bytes) -> bool:
    """Whether an error is the provider's own word, by its shape: `{"detail": "..."}` or `{"field": ["...", ...]}`.

    A proxy on the way answers with HTML, a text, nothing, or JSON of its own: of the account that proves nothing.
    """
    try:
        answer = read_json(body)
    except UnreadableError:
        return False
    if not isinstance(answer, dict):
        return False
    if "detail" in answer:
        return bool(_text(answer["detail"]))
    return bool(answer) and all(_is_words(said) for said in answer.values())


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait, from a Retry-After header in either of its forms (RFC 9110, 10.2.3). None where unreadable.

    `now` is what the sender's clock shows.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    moment = http_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def http_date(value: str | None) -> datetime | None:
    """The instant in a header; None where unreadable."""
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # HTTP dates are in GMT; `-0000` is read as a time without a zone.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _references(entry: Mapping[str, Any], asked: str | None) -> tuple[int | str, ...]:
    """The ids of an object, which the provider calls `id` or `uuid`; first the one that was asked for, if it is there.

    Each of them once.
    """
    found: dict[str, int | str] = {}
    for key in ("id", "uuid"):
        if (ref := _as_reference(entry.get(key))) is not None:
            found.setdefault(str(ref), ref)
    return tuple(found[text] for text in sorted(found, key=lambda text: text != asked))


def _as_reference(value: object) -> int | str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return value if 0 < len(str(value).strip()) <= LONGEST_ID else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _permissions(value: object) -> tuple[str, ...] | None:
    """The shape is not published: words in a list or a line, or an object that says yes or lists actions."""
    if isinstance(value, str):
        return tuple(re.split(r"[,\s]+", value.strip())) if value.strip() else ()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if not isinstance(value, dict):
        return None
    words: list[str] = []
    for key, granted in value.items():
        if granted is True:
            words.append(key)
        elif inner := (_permissions(granted) if granted else ()):
            words.extend(f"{key}:{one}" for one in inner)
    return tuple(words)


def _joined(said: object) -> str:
    return " ".join(_joined(one) for one in said) if isinstance(said, list) else str(said)


def _is_words(said: object) -> bool:
    return isinstance(said, list) and bool(said) and all(isinstance(one, str) for one in said)


def _one_line(text: str) -> str:
    """Printable, so that it cannot forge a line of a log, and short."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "..."
