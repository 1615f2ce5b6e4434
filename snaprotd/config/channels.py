"""Who is told what happens: the forms of `notify` and of a policy's `ping`, what they mean, what is wrong with them.

Every address that is a secret, and every password, stands in a file of its own, which is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, with_config
from typing_extensions import TypedDict

from snaprotd.config.addresses import read_mailbox, read_path, read_smtp
from snaprotd.config.text.document import KeyPath
from snaprotd.core.telling import WORDS, Kind, Style

MOST_CHANNELS = 8
MOST_RECIPIENTS = 20
MOST_FILES = 100
"""Different files with secrets: every text that is written is searched for what they hold."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Messages as JSON, by POST."""

    url_file: Path
    secret_file: Path | None = None
    """The key of the signature."""


@dataclass(frozen=True, kw_only=True)
class Email:
    """Messages as mail."""

    to: tuple[str, ...]
    sender: str
    smtp: tuple[str, int]
    user: str = ""
    password_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Ping:
    """A check that waits for pings."""

    url_file: Path
    style: Style = Style.HEALTHCHECKS


@dataclass(frozen=True, kw_only=True)
class Run:
    """A program that is given each message."""

    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One entry of `notify`."""

    way: Webhook | Email | Ping | Run
    on: tuple[Kind, ...] = WORDS


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The check of the daemon itself. `every` is in seconds."""

    url_file: Path
    every: float = 300.0


# -- the forms -----------------------------------------------------------------------------------------------------


def _read_word(value: object) -> Kind:
    if value not in WORDS:
        raise ValueError(f"should be one of {', '.join(f'`{word}`' for word in WORDS)}")
    return Kind(str(value))


def _read_program(value: object) -> list[str]:
    words = value if isinstance(value, list) else []
    if not words or not all(isinstance(word, str) and word.isprintable() and word for word in words):
        raise ValueError("should be a list of texts: a program's whole path, and what it is given")
    return words


def _read_text(value: object) -> object:
    if isinstance(value, str) and (not value or not value.isprintable() or len(value) > 200):
        raise ValueError("should be 1 to 200 printable characters")
    return value


_TEXT = WithJsonSchema({"type": "string", "minLength": 1})
_STRICT = ConfigDict(extra="forbid", strict=True)
_File = Annotated[Path, PlainValidator(read_path), _TEXT]
_Mailbox = Annotated[str, PlainValidator(read_mailbox), _TEXT]


@with_config(_STRICT)
class WebhookKeys(TypedDict, total=False):
    """A receiver of messages as JSON."""

    url_file: Annotated[_File, Field(description="The file that holds the URL to which each message is sent (POST).")]
    secret_file: Annotated[_File, Field(description="The file that holds the key of X-Snaprotd-Signature.")]


EmailKeys = TypedDict(
    "EmailKeys",
    {
        "to": Annotated[list[_Mailbox], Field(min_length=1, max_length=MOST_RECIPIENTS, description="Who gets it.")],
        "from": Annotated[_Mailbox, Field(description="Whom it comes from.")],
        "smtp": Annotated[
            tuple[str, int],
            PlainValidator(read_smtp),
            _TEXT,
            Field(description="host:port of the mail server. TLS at once on 465, else STARTTLS; none on loopback."),
        ],
        "user": Annotated[str, BeforeValidator(_read_text), _TEXT, Field(description="Whom it knows us as.")],
        "password_file": Annotated[_File, Field(description="The file that holds the password.")],
    },
    total=False,
)
"""Mail. Not in the form of a class: `from` is a word of Python."""
with_config(_STRICT)(EmailKeys)


@with_config(_STRICT)
class PingKeys(TypedDict, total=False):
    """A check that waits for pings."""

    url_file: Annotated[_File, Field(description="The file that holds the check's URL.")]
    style: Annotated[Style, Field(strict=False, description="Whose rules: healthchecks, uptime_kuma, or plain.")]


@with_config(_STRICT)
class NotifyKeys(TypedDict, total=False):
    """One channel: exactly one of the first four."""

    webhook: Annotated[WebhookKeys, Field(description="Messages as JSON, by POST.")]
    email: Annotated[EmailKeys, Field(description="Messages as mail.")]
    ping: Annotated[PingKeys, Field(description="A check that is told of success and failure.")]
    run: Annotated[
        list[str],
        PlainValidator(_read_program),
        WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        Field(description="A program, with its arguments, that is given each message as JSON on standard input."),
    ]
    on: Annotated[
        list[Annotated[Kind, PlainValidator(_read_word), WithJsonSchema({"type": "string", "enum": list(WORDS)})]],
        Field(min_length=1, description="What it is told: failure, recovery, held_off, blocked, vanished; else all."),
    ]


SHAPES: Mapping[str, Any] = {"webhook": WebhookKeys, "email": EmailKeys, "ping": PingKeys}
"""Those of the channels that have keys."""
WAYS = (*SHAPES, "run")
NEEDED: Mapping[str, Sequence[str]] = {
    "webhook": ("url_file",),
    "email": ("to", "from", "smtp"),
    "ping": ("url_file",),
    "run": (),
}


# -- what is wrong, and what it means --------------------------------------------------------------------------------

Mistakes = Iterator[tuple[KeyPath, str]]


def mistakes_in_channels(notify: Sequence[Mapping[str, Any]]) -> Mistakes:
    """What is wrong though each value by itself is sound."""
    for index, given in enumerate(notify):
        path: KeyPath = ("notify", index)
        ways = [way for way in WAYS if way in given]
        if len(ways) != 1:
            yield path, f"needs exactly one of {', '.join(f'`{way}`' for way in WAYS)}, and has {len(ways)}"
            continue
        (way,) = ways
        if way != "run":
            yield from lacking((*path, way), given[way], NEEDED[way])
        if way == "email" and ("user" in given[way]) != ("password_file" in given[way]):
            yield (*path, way), "`user` and `password_file` go together"
        if way == "ping" and Kind.RECOVERY not in given.get("on", WORDS):
            yield (*path, "on"), "should have `recovery` in it: a check that is never told of success stays down"


def lacking(path: KeyPath, given: Mapping[str, Any], needed: Sequence[str]) -> Mistakes:
    for key in needed:
        if key not in given:
            yield path, f"`{key}` is missing"


def channels_of(notify: Sequence[Mapping[str, Any]]) -> tuple[Channel, ...]:
    return tuple(Channel(way=_way_of(given), on=tuple(given.get("on", WORDS))) for given in notify)


def _way_of(given: Mapping[str, Any]) -> Webhook | Email | Ping | Run:
    if "webhook" in given:
        return Webhook(**given["webhook"])
    if "ping" in given:
        return Ping(**given["ping"])
    if "run" in given:
        return Run(argv=tuple(given["run"]))
    keys = dict(given["email"])
    return Email(to=tuple(keys.pop("to")), sender=keys.pop("from"), **keys)


def files_named(keys: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Path]]:
    """The files with secrets that the keys of a file name, each with its place."""
    for index, given in enumerate(keys.get("notify", [])):
        for way in SHAPES:
            yield from _files_in(("notify", index, way), given.get(way, {}))
    yield from (((key,), keys[key]) for key in ("state_password_file",) if key in keys)
    yield from _files_in(("heartbeat",), keys.get("heartbeat", {}))
    yield from _files_in(("defaults", "ping"), keys.get("defaults", {}).get("ping", {}))
    for name, policy in keys.get("policies", {}).items():
        yield from _files_in(("policies", name, "ping"), policy.get("ping", {}))
    for index, server in enumerate(keys.get("servers", [])):
        yield from _files_in(("servers", index, "ping"), server.get("ping", {}))


def _files_in(path: KeyPath, given: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Path]]:
    yield from (((*path, key), value) for key, value in given.items() if isinstance(value, Path))
