"""What the configuration file may hold: its keys and the form of their values, as pydantic types.

Defaults are not here: a key that is not in the file is not in the result. Each check says what a value *should be*, so
that every refusal is one plain sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    TypeAdapter,
    WithJsonSchema,
    with_config,
)
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from snaprotd.config.addresses import Listen, read_base_url, read_host, read_listen, read_path, read_state
from snaprotd.config.channels import MOST_CHANNELS, NotifyKeys, PingKeys
from snaprotd.config.settings import PerServer
from snaprotd.core.model import NO_SERVER
from snaprotd.core.policy import OnStopTimeout, WhenFull
from snaprotd.core.schedule import Missed, check_timezone, check_window
from snaprotd.core.words import DURATION, read_duration

LARGEST_LIMIT = 100
MOST_RETRIES = 10
OWN_SERVER = f"a server's id (a whole number from 1 on, or text), or the word {NO_SERVER}"
_NO_IDS = frozenset((NO_SERVER, "no", "off", "false", "null", "yes", "on", "true", "auto", "localhost"))

_TAGS = {int: "\0int", str: "\0str", list: "\0list", dict: "\0dict"}
"""Marks of a union's arms: pydantic puts them into its paths, and no key of a file holds a NUL."""

TAGS = frozenset(_TAGS.values())


def _by_type(value: object) -> str | None:
    """Which arm of a union a value belongs to; by its exact type, for True is an int to isinstance."""
    return _TAGS.get(type(value))


def _duration(least: str, most: str) -> PlainValidator:
    """Durations from `least` to `most`, both as they are written in the file."""
    low, high = read_duration(least), read_duration(most)
    assert low is not None
    assert high is not None

    def read(value: object) -> timedelta:
        if type(value) in (int, float) and str(value).isdecimal():
            raise ValueError(f"a duration needs its unit: write {value}s if seconds are meant")
        duration = read_duration(value) if isinstance(value, str) else None
        if duration is None:
            raise ValueError("should be a duration such as 90s, 15m, 6h or 1d")
        if not low <= duration <= high:
            raise ValueError(f"should be from {least} to {most}")
        return duration

    return PlainValidator(read)


def _printable(most: int) -> AfterValidator:
    def check(text: str) -> str:
        if not 1 <= len(text) <= most or not text.isprintable() or text != text.strip():
            raise ValueError(f"should be 1 to {most} printable characters, with no space at either end")
        return text

    return AfterValidator(check)


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def _in_schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


def _checked(check: Callable[[str], None]) -> AfterValidator:
    def checked(text: str) -> str:
        check(text)
        return text

    return AfterValidator(checked)


def _own_server(text: str) -> str:
    """A word that is hardly an id would leave the machine without its protection, and nobody would know."""
    if text != NO_SERVER and text.lower() in _NO_IDS:
        raise ValueError(f"should be {OWN_SERVER}")
    return text


_TEXT = WithJsonSchema({"type": "string", "minLength": 1})
_STRICT = ConfigDict(extra="forbid", strict=True)

ServerId = Annotated[
    Annotated[int, Field(ge=1), Tag("\0int")]
    | Annotated[
        str,
        _matching("[A-Za-z0-9_-]{1,64}", "a server's id: 1 to 64 letters, digits, `-` and `_`"),
        _in_schema("[A-Za-z0-9_-]{1,64}"),
        Tag("\0str"),
    ],
    Discriminator(_by_type),
    AfterValidator(str),
]
OwnServer = Annotated[ServerId, AfterValidator(_own_server)]
Instance = Annotated[
    str,
    _matching("[a-z0-9_]{1,32}", "1 to 32 lower-case letters, digits and `_`"),
    _in_schema("[a-z0-9_]{1,32}"),
]
Expressions = Annotated[
    Annotated[str, Tag("\0str")] | Annotated[list[str], Field(min_length=1), Tag("\0list")],
    Discriminator(_by_type),
]
_Window = Annotated[str, _checked(check_window)]
Windows = Annotated[
    Annotated[_Window, Tag("\0str")] | Annotated[list[_Window], Field(min_length=1), Tag("\0list")],
    Discriminator(_by_type),
]
_Pattern = Annotated[str, _printable(200), Field(json_schema_extra={"minLength": 1})]
_Word = Annotated[str, _printable(64), Field(json_schema_extra={"minLength": 1, "maxLength": 64})]
_Count = Annotated[int, Field(ge=0, lt=LARGEST_LIMIT)]
_SCHEMA_OF_DURATION = WithJsonSchema({"type": "string", "pattern": f"^{DURATION}$"})


@with_config(_STRICT)
class RetentionKeys(TypedDict, total=False):
    """How many snapshots each rule keeps; a snapshot is kept if any rule keeps it."""

    last: Annotated[_Count, Field(description="The newest ones.")]
    hourly: Annotated[_Count, Field(description="The newest one of each of this many hours.")]
    daily: Annotated[_Count, Field(description="The newest one of each of this many days.")]
    weekly: Annotated[_Count, Field(description="The newest one of each of this many weeks.")]
    monthly: Annotated[_Count, Field(description="The newest one of each of this many months.")]
    yearly: Annotated[_Count, Field(description="The newest one of each of this many years.")]


Keep = Annotated[
    Annotated[int, Field(ge=1, lt=LARGEST_LIMIT), Tag("\0int")]
    | Annotated[RetentionKeys, Field(json_schema_extra={"minProperties": 1}), Tag("\0dict")],
    Discriminator(_by_type),
]
_Timeout = Annotated[timedelta, _duration("1ms", "7d"), _SCHEMA_OF_DURATION]


@with_config(_STRICT)
class RetryKeys(TypedDict, total=False):
    """When a slot whose rotation has failed is tried again."""

    times: Annotated[int, Field(ge=0, le=MOST_RETRIES, description="How often a slot is tried again; 0 for never.")]
    after: Annotated[
        timedelta, _duration("1s", "7d"), _SCHEMA_OF_DURATION, Field(description="How long after each failure.")
    ]


@with_config(_STRICT)
class PolicyKeys(TypedDict, total=False):
    """What is to happen to a server."""

    schedule: Annotated[Expressions, Field(description="Five-field crontab text or @daily and the like, or a list.")]
    timezone: Annotated[
        str, _checked(check_timezone), Field(description="IANA name of the zone the schedule and periods are in.")
    ]
    window: Annotated[
        Windows, Field(description="When anything may begin, as in 01:00-06:00 or sat-sun 00:00-24:00, or a list.")
    ]
    spread: Annotated[
        timedelta,
        _duration("0s", "1d"),
        _SCHEMA_OF_DURATION,
        Field(description="Delay each server by a fixed share of this, so that not all begin at once."),
    ]
    keep: Annotated[Keep, Field(description="How many snapshots to keep, at most `limit` less 1.")]
    adopt: Annotated[
        list[_Pattern], Field(description="Shell patterns: names of snapshots of others that are ours to rotate.")
    ]
    when_full: Annotated[
        WhenFull, Field(strict=False, description="What may be deleted where a server has no free slot.")
    ]
    stop_first: Annotated[bool, Field(description="Stop a running server for its snapshot, and start it again.")]
    stop_timeout: Annotated[_Timeout, Field(description="How long a server may take to switch off.")]
    on_stop_timeout: Annotated[
        OnStopTimeout, Field(strict=False, description="What to do with a server that does not switch off.")
    ]
    start_timeout: Annotated[_Timeout, Field(description="How long a server may take to start before an alarm.")]
    snapshot_timeout: Annotated[_Timeout, Field(description="How long a snapshot may take to be completed.")]
    missed: Annotated[
        Missed, Field(strict=False, description="What becomes of a slot missed while the daemon was down.")
    ]
    missed_within: Annotated[
        timedelta,
        _duration("1ms", "366d"),
        _SCHEMA_OF_DURATION,
        Field(description="How old a missed slot may be to be run late."),
    ]
    paused: Annotated[bool, Field(description="Count the slots, do nothing.")]
    retry: Annotated[
        RetryKeys, Field(description="Try a slot again whose rotation has failed for a reason that may pass.")
    ]
    hold_manual: Annotated[
        timedelta,
        _duration("0s", "3650d"),
        _SCHEMA_OF_DURATION,
        Field(description="For how long no rotation deletes what `snaprotd now` takes; 0s for not at all."),
    ]
    ping: Annotated[PingKeys, Field(description="A check that is told of the success and failure of its servers.")]
    one_at_a_time: Annotated[_Word, Field(description="A group's name: no two servers of it are held off at once.")]


_ONE_OF: JsonDict = {"oneOf": [{"required": ["id"]}, {"required": ["match"], "not": {"required": ["name"]}}]}


@with_config(ConfigDict(**_STRICT, json_schema_extra=_ONE_OF))
class ServerKeys(PolicyKeys, total=False):
    """A server by `id`, or all servers of the account whose name matches; any policy key may be added."""

    id: Annotated[ServerId, Field(description="The server's id at the provider.")]
    match: Annotated[_Pattern, Field(description="Shell pattern on the account's names of servers.")]
    name: Annotated[_Word, Field(description="Our label for the server, free to choose, unique.")]
    policy: Annotated[_Word, Field(description="The name of a policy under `policies`.")]


@with_config(_STRICT)
class ApiKeys(TypedDict, total=False):
    """How to reach the provider."""

    base_url: Annotated[
        str, PlainValidator(read_base_url), _TEXT, Field(description="https, or http to a loopback address only.")
    ]
    token_file: Annotated[
        Path,
        PlainValidator(read_path),
        _TEXT,
        Field(description="The file that holds the API token; the token itself never stands here."),
    ]
    requests_per_second: Annotated[
        float, Field(ge=0.01, le=1000, allow_inf_nan=False, description="All requests together.")
    ]
    timeout: Annotated[
        timedelta,
        _duration("1ms", "10m"),
        _SCHEMA_OF_DURATION,
        Field(description="For a whole request, its body included."),
    ]
    settle: Annotated[
        timedelta,
        _duration("0s", "1d"),
        _SCHEMA_OF_DURATION,
        Field(
            description="How late a request whose answer was lost may still be carried out. It is looked for a quarter "
            "longer, and at least 30 s."
        ),
    ]


@with_config(_STRICT)
class HeartbeatKeys(TypedDict, total=False):
    """A check that is told that the daemon itself is well; where nothing comes, it is not."""

    url_file: Annotated[
        Path, PlainValidator(read_path), _TEXT, Field(description="The file that holds the URL that is asked (GET).")
    ]
    every: Annotated[timedelta, _duration("10s", "1d"), _SCHEMA_OF_DURATION, Field(description="How often.")]


@with_config(_STRICT)
class MetricsKeys(TypedDict, total=False):
    """What `/metrics` shows."""

    per_server: Annotated[PerServer, Field(strict=False, description="Series of all servers, or of those in trouble.")]


@with_config(_STRICT)
class FileKeys(TypedDict, total=False):
    """Configuration of snaprotd."""

    api: Annotated[ApiKeys, Field(description="How to reach the provider.")]
    state: Annotated[
        str, PlainValidator(read_state), _TEXT, Field(description="The ledger: a path, or postgresql://...")
    ]
    state_password_file: Annotated[
        Path,
        PlainValidator(read_path),
        _TEXT,
        Field(description="The file that holds PostgreSQL's password. Without it libpq looks where it does."),
    ]
    listen: Annotated[
        Listen,
        PlainValidator(read_listen),
        _TEXT,
        Field(description="host:port of status page and metrics, or unix:/path of a socket; off for none."),
    ]
    allowed_hosts: Annotated[
        list[Annotated[str, AfterValidator(read_host)]],
        Field(description="Names by which browsers may ask for the pages, beyond addresses, localhost and `listen`'s."),
    ]
    web_config: Annotated[
        Path,
        PlainValidator(read_path),
        _TEXT,
        Field(description="The file with TLS and passwords of the pages, as Prometheus' exporters have it."),
    ]
    metrics: Annotated[MetricsKeys, Field(description="What `/metrics` shows.")]
    own_server: Annotated[OwnServer, Field(description="The id of the server that snaprotd itself runs on, or none.")]
    instance: Annotated[Instance, Field(description="The part of our snapshots' names that makes them ours.")]
    limit: Annotated[int, Field(ge=2, le=LARGEST_LIMIT, description="Snapshots a server may hold at the provider.")]
    max_concurrent: Annotated[int, Field(ge=1, le=10_000, description="Rotations under way at one time.")]
    poll_interval: Annotated[
        timedelta,
        _duration("100ms", "1h"),
        _SCHEMA_OF_DURATION,
        Field(description="How often a rotation is looked at, once what it waits for may be over."),
    ]
    drain_timeout: Annotated[
        _Timeout, Field(description="How long a stopping daemon lets rotations that hold a server off go on.")
    ]
    discover_interval: Annotated[
        timedelta,
        _duration("100ms", "7d"),
        _SCHEMA_OF_DURATION,
        Field(description="How often the account is searched for servers that a `match` names."),
    ]
    notify: Annotated[list[NotifyKeys], Field(max_length=MOST_CHANNELS, description="Who is told of what happens.")]
    heartbeat: Annotated[HeartbeatKeys, Field(description="Who is told that the daemon itself is well.")]
    defaults: Annotated[PolicyKeys, Field(description="Any policy key, for all servers.")]
    policies: Annotated[dict[_Word, PolicyKeys], Field(description="Policies by name, over `defaults`.")]
    servers: Annotated[
        list[ServerKeys], Field(json_schema_extra={"minItems": 1}, description="The servers to look after.")
    ]


FILE: TypeAdapter[FileKeys] = TypeAdapter(FileKeys)
