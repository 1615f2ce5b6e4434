"""What the provider's answers say: JSON to nouns. Nothing here asks, waits or knows the time by itself.

The published pages and the provider's own clients disagree in places (an integer `id` or a `uuid`), and any field may
change. What cannot be read for certain is refused here, with the server it concerns where that much is readable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from snaprotd.core.model import Server, ServerState, Snapshot, SnapshotState
from snaprotd.provider import Doubtful, TokenOwner
from snaprotd.provider.vps_org.body import (
    LARGEST_SIZE,
    LONGEST_ERROR,
    UnreadableError,
    name_in,
    plain_in,
    prose_in,
    read_json,
    reference_in,
    said,
)

MOST_ENTRIES = 100_000
"""Of one page, and of a list: a fleet of 20,000 servers, each full."""
MOST_PERMISSIONS = 100
LONGEST_HOSTNAME = 255
"""Characters (RFC 1035, and the dot at its end)."""
LONGEST_EMAIL = 320
LONGEST_INSTANT = 100

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


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list."""

    entries: list[Any]
    next: str | None = None
    has_count: bool = False
    count: object = None
    """How many entries all pages are to have together, as the provider says; compared, never calculated with."""


def read_page(body: Any) -> Page:
    """A page of Django REST framework, or a bare list."""
    if isinstance(body, list):
        body = {"results": body}
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        raise UnreadableError("no list under `results`")
    if len(body["results"]) > MOST_ENTRIES:
        raise UnreadableError(f"a page of more than {MOST_ENTRIES} entries")
    following = body.get("next") or None
    if not isinstance(following, str | None):
        raise UnreadableError("`next` is not a URL")
    return Page(entries=body["results"], next=following, has_count="count" in body, count=body.get("count"))


def read_server(
    entry: Any, *, asked: str | None = None, known_as: Collection[str] = (), seen_at: float | None = None
) -> Server:
    """`asked` is the id that the server was asked for by, where there is one: the answer must carry it, or another id
    that the same server is known by. `seen_at` is the request's.
    """
    if not isinstance(entry, dict):
        raise UnreadableError("a server that is no JSON object")
    refs = _references(entry, asked)
    if not refs:
        raise UnreadableError("a server without an id")
    ref = refs[0]
    if asked is not None and not {str(ref) for ref in refs} & {asked, *known_as}:
        raise UnreadableError(f"server {str(ref)!r} in place of {asked!r}")
    hostname = name_in(entry.get("hostname"), LONGEST_HOSTNAME)
    return Server(
        id=str(ref),
        ref=ref,
        name=name_in(entry.get("name")) or name_in(hostname),
        state=server_state(entry.get("status")),
        status=name_in(entry.get("status")),
        hostname=hostname,
        ip_address=name_in(entry.get("ip_address")),
        also=refs[1:],
        seen_at=seen_at,
    )


def read_snapshot(
    entry: Any, *, asked: str | None = None, listed_at: datetime | None = None, seen_at: float | None = None
) -> Snapshot:
    """`asked` is the id of the server whose snapshots were asked for, where there is one. `listed_at`
    is the answer's, `seen_at` the request's.

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
    ids = [str(ref) for ref in _references(entry, None)]
    if not ids:
        raise UnreadableError(f"a snapshot of server {server_ids[0]} without an id", server_id=server_ids[0])
    if not isinstance(entry.get("name"), str):
        raise UnreadableError(f"snapshot {ids[0]} of server {server_ids[0]} without a name", server_id=server_ids[0])
    return _snapshot(entry, ids, server_ids, name_in(of.get("name")), listed_at=listed_at, seen_at=seen_at)


def _snapshot(
    entry: Mapping[str, Any],
    ids: Sequence[str],
    server_ids: Sequence[str],
    server_name: str,
    *,
    listed_at: datetime | None = None,
    seen_at: float | None = None,
) -> Snapshot:
    """What an entry says of the snapshot itself."""
    return Snapshot(
        server_id=server_ids[0],
        server_also=tuple(server_ids[1:]),
        server_name=server_name,
        listed_at=listed_at,
        seen_at=seen_at,
        id=ids[0],
        also=tuple(ids[1:]),
        name=name_in(entry.get("name")),
        state=snapshot_state(entry.get("status")),
        status=name_in(entry.get("status")),
        size_mb=_size(entry.get("size_mb")),
        created_at=read_instant(entry.get("created_at")),
        description=prose_in(entry.get("description")),
    )


def server_state(status: object) -> ServerState:
    """What the provider's word for a server means; a word that is not published is one between two states."""
    return _SERVER_STATES.get(status, ServerState.BETWEEN) if isinstance(status, str) else ServerState.BETWEEN


def snapshot_state(status: object) -> SnapshotState:
    """What the provider's word for a snapshot means."""
    return _SNAPSHOT_STATES.get(status, SnapshotState.UNKNOWN) if isinstance(status, str) else SnapshotState.UNKNOWN


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
    read = _snapshot(entry, ids, [server.id], server.name)
    return replace(read, name=read.name or name)


def read_token_owner(body: Any) -> TokenOwner:
    if not isinstance(body, dict):
        raise UnreadableError("an account that is no JSON object")
    account, token = (part if isinstance(part, dict) else {} for part in (body.get("account"), body.get("token")))
    words = _permissions(token.get("permissions"))
    return TokenOwner(
        email=plain_in(account.get("email"), LONGEST_EMAIL),
        token_name=name_in(token.get("name")),
        permissions=None if words is None else tuple(map(name_in, words[:MOST_PERMISSIONS])),
    )


def read_instant(value: object) -> datetime | None:
    """ISO 8601 with its zone, as UTC. None for anything else: a time without a zone is not an instant."""
    if not isinstance(value, str) or len(value) > LONGEST_INSTANT:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def error_text(body: bytes) -> str:
    """The provider's own words, fit to be shown: `{"detail": "..."}` or `{"field": ["...", ...]}`. Empty where none."""
    answer = _error_in(body)
    if isinstance(answer, dict):
        fields = (
            [answer["detail"]] if "detail" in answer else [f"{key}: {_joined(told)}" for key, told in answer.items()]
        )
        return said("; ".join(_joined(told) for told in fields))
    return said(_joined(answer)) if answer is not None else ""


def _error_in(body: bytes) -> Any:
    """The JSON of an error; None where there is none."""
    try:
        return read_json(body) if len(body) <= LONGEST_ERROR else None
    except UnreadableError:
        return None


def speaks_of_a_limit(body: bytes) -> bool:
    """Whether an error says that there are too many of something."""
    return re.search(r"limit|maximum|quota|exceed|too many|no free|full\b", error_text(body), re.IGNORECASE) is not None


def is_own_error(body: bytes) -> bool:
    """Whether an error is the provider's own word, by its shape: `{"detail": "..."}` or `{"field": ["...", ...]}`.

    A proxy on the way answers with HTML, a text, nothing, or JSON of its own: of the account that proves nothing.
    """
    answer = _error_in(body)
    if not isinstance(answer, dict):
        return False
    if "detail" in answer:
        return isinstance(answer["detail"], str) and bool(answer["detail"])
    return bool(answer) and all(_is_words(told) for told in answer.values())


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
    refs = [ref for key in ("id", "uuid") if key in entry and (ref := reference_in(entry[key])) is not None]
    if len(refs) < 2:
        return tuple(refs)
    found: dict[str, int | str] = {}
    for ref in refs:
        found.setdefault(str(ref), ref)
    return tuple(found[text] for text in sorted(found, key=lambda text: text != asked))


def _size(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= LARGEST_SIZE else None


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


def _joined(told: object) -> str:
    return " ".join(_joined(one) for one in told) if isinstance(told, list) else str(told)


def _is_words(told: object) -> bool:
    return isinstance(told, list) and bool(told) and all(isinstance(one, str) for one in told)


def followed(url: httpx.URL, link: str, *, base: httpx.URL) -> httpx.URL:
    """Where the next page of the list at `url` is. Raises `Doubtful` for another place than that of `base`."""
    of = f"the list at {said(url.path)} is incomplete"
    try:
        target = url.join(link)
        place = _place(target)  # its host is decoded here
    except (httpx.InvalidURL, ValueError) as error:
        raise Doubtful(f"{of}: `next` is not a URL") from error
    if place != _place(base) or target.userinfo:
        raise Doubtful(f"{of}: the next page points to another host")
    return target


def _place(url: httpx.URL) -> tuple[str, str, int | None]:
    return (url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme))
