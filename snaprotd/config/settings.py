"""What a configuration says, every default filled in; and which servers of the account it is about."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from snaprotd.config.addresses import Listen, written_listen
from snaprotd.config.channels import Channel, Heartbeat, Ping
from snaprotd.core.model import PROVIDER_LIMIT, Server
from snaprotd.core.policy import Policy, Retention, Retry, Rules
from snaprotd.core.schedule import Schedule
from snaprotd.core.words import shown_duration

SYSTEM_STATE = Path("/var/lib/snaprotd")
PROGRAMS = Path("/etc/snaprotd/run")


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """How to reach the provider. `timeout` and `settle` are in seconds. The token is never in here."""

    base_url: str = "https://admin.vps.org/api/v1"
    token_file: Path | None = None
    requests_per_second: float = 5.0
    timeout: float = 30.0
    settle: float = 120.0


class PerServer(StrEnum):
    """Of which servers `/metrics` has series."""

    ALL = "all"
    PROBLEMS = "problems"


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """What `/metrics` shows."""

    per_server: PerServer = PerServer.ALL


@dataclass(frozen=True, kw_only=True)
class ServerEntry:
    """One entry under `servers`, its layers resolved. Exactly one of `key` and `match` is set."""

    key: str | None
    """The server's id as text."""
    match: str | None
    """A shell pattern on the account's names."""
    name: str | None
    policy: Policy
    origins: Mapping[str, str]
    """Which layer gave each policy key: `default`, `defaults`, `policies.nightly` or `servers[0]`."""
    ping: Ping | None = None
    """The check that is told of it. No part of the policy: a rotation that runs knows nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole file, every default filled in. Durations are in seconds."""

    api: ApiSettings = field(default_factory=ApiSettings)
    state: str = field(repr=False)
    """Path of the ledger, or a postgresql:// URL, which may hold a password."""
    state_password_file: Path | None = None
    """The file that holds PostgreSQL's password."""
    ledger: Path = field(default=Path(), repr=False)
    """The ledger's file. Of one on a server: where that file would be, which names what is kept of it on this host."""
    listen: Listen = ("127.0.0.1", 9877)
    allowed_hosts: tuple[str, ...] = ()
    """Names in the header Host, in lower case, beyond IP addresses, loopback names and that of `listen`."""
    web_config: Path | None = None
    """The file that says how the pages are protected; `web_file` reads it."""
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    own_server: str | None = None
    """The id of the server that snaprotd itself runs on, or `NO_SERVER`; None where the machine has to tell."""
    instance: str = "main"
    limit: int = PROVIDER_LIMIT
    max_concurrent: int = 20
    poll_interval: float = 15.0
    drain_timeout: float = 600.0
    discover_interval: float = 300.0
    notify: tuple[Channel, ...] = ()
    heartbeat: Heartbeat | None = None
    secret_folders: tuple[Path, ...] = ()
    """Where the files may lie that hold addresses and passwords of channels."""
    program_folders: tuple[Path, ...] = (PROGRAMS,)
    """Where the programs lie that may be run."""
    entries: tuple[ServerEntry, ...]
    path: Path
    digest: str
    """SHA-256 of the file's content, in hexadecimal."""

    named: tuple[Target, ...] = field(init=False, repr=False, compare=False)
    """The servers that are named by their ids; of thousands it is done once, where the file is read."""
    server_ids: frozenset[str] = field(init=False, repr=False, compare=False)
    """Their ids."""

    def __post_init__(self) -> None:
        named = tuple(
            Target(server_id=entry.key, label=entry.name or entry.key, policy=entry.policy, entry=entry)
            for entry in self.entries
            if entry.key is not None
        )
        if self.ledger == Path():
            object.__setattr__(self, "ledger", Path(self.state))
        object.__setattr__(self, "named", named)
        object.__setattr__(self, "server_ids", frozenset(target.server_id for target in named))

    def rules_of(self, target: Target) -> Rules:
        """What decides over the snapshots of one server."""
        return Rules(policy=target.policy, instance=self.instance, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One server of the account to be looked after. `label` is unique among all targets."""

    server_id: str
    label: str
    policy: Policy
    entry: ServerEntry


def as_written(key: str, value: Any) -> Any:
    """The value of a key as a user would write it."""
    if isinstance(value, Retention):
        return value.last if value.last == value.total else {rule: n for rule, n in vars(value).items() if n}
    if isinstance(value, Schedule):
        return list(value.expressions)
    if isinstance(value, Retry):
        return {"times": value.times, "after": shown_duration(value.after)}
    if isinstance(value, timedelta):
        return shown_duration(value)
    if isinstance(value, float) and key != "requests_per_second":
        return shown_duration(timedelta(seconds=value))
    if key == "listen":
        return written_listen(value)
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, StrEnum) else value


OLD_STATE = "./snaprotd-state.db"
"""Where the ledger was by default once: in the folder that a process began in, which depends on who calls."""


def default_state(environ: Mapping[str, str]) -> str:
    """Where the ledger is, where the file does not say."""
    folder = state_directory(environ)
    if folder is not None:
        return f"{folder}/state.db"
    if _is_our_file(OLD_STATE):
        return OLD_STATE
    if os.geteuid() == 0:
        return str(SYSTEM_STATE / "state.db")
    home = _state_home(environ)
    return OLD_STATE if home is None else str(home / "state.db")


def _is_our_file(path: str) -> bool:
    """No link, and nobody else's: in a folder that many may write to, such as /tmp, anybody may have put it there."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _state_home(environ: Mapping[str, str]) -> Path | None:
    """The folder for what programs of this user keep; None where the user has no home."""
    home = environ.get("HOME", "")
    for folder in (environ.get("XDG_STATE_HOME", ""), home and f"{home}/.local/state"):
        if os.path.isabs(folder):  # by the XDG specification, a relative one counts for nothing
            return Path(folder, "snaprotd")
    return None


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """The folder that the service manager keeps for us; None where there is none."""
    folder = environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd names all of several, with colons
    return Path(folder) if folder else None


def notes_directory(config: Path, environ: Mapping[str, str]) -> Path | None:
    """Where it is noted which ledgers are in force: a folder of this configuration file's own; None where nowhere.

    It is the service manager's, which keeps one for each daemon, else one for the file's name: the notes are needed
    where nothing can be read of the file any more.
    """
    folder = state_directory(environ)
    if folder is not None:
        return folder
    base = SYSTEM_STATE if os.access(SYSTEM_STATE, os.W_OK | os.X_OK) else _state_home(environ)
    return base and base / "of-config" / hashlib.sha256(os.fsencode(config.absolute())).hexdigest()[:16]


def ledger_file(state: str, config: Path, environ: Mapping[str, str]) -> Path:
    """What `Config.ledger` is for that `state`."""
    if "://" not in state:
        return Path(state)
    folder = notes_directory(config, environ) or Path(tempfile.gettempdir())
    url = urlsplit(state)
    which = f"{url.netloc.rpartition('@')[2]}{url.path}?{url.query}"
    return folder / f"on-server-{hashlib.sha256(which.encode()).hexdigest()[:16]}"


# -- servers of the account


def resolve(config: Config, servers: Sequence[Server] | None) -> tuple[Target, ...]:
    """The servers to look after: those named by id, and those of `servers` (the account's) that a `match` names.

    An `id` wins over any `match`, an earlier `match` over a later one, and of two ids of one server the one that the
    account shows it by. None: only those named by id.
    """
    doubled: set[str] = set()
    for server in servers or ():
        configured = [one for one in (server.id, *server.ids) if one in config.server_ids]
        doubled |= {one for one in configured if one != configured[0]}
    named = [target for target in config.named if target.server_id not in doubled] if doubled else config.named
    return (*named, *_matched(config, named, servers or ()))


def _matched(config: Config, named: Sequence[Target], servers: Sequence[Server]) -> Iterator[Target]:
    patterns = [(entry.match, entry) for entry in config.entries if entry.match is not None]
    if not patterns:
        return
    ids = {target.server_id for target in named}
    found: dict[str, tuple[Server, ServerEntry]] = {}
    for server in servers:
        entry = next((entry for pattern, entry in patterns if fnmatchcase(server.name, pattern)), None)
        if entry is not None and server.id not in ids:
            found.setdefault(server.id, (server, entry))
    names = Counter(server.name for server, _ in found.values())
    labels = {target.label for target in named}
    taken = labels | ids | found.keys()
    for server, entry in found.values():
        clear = names[server.name] == 1 and server.name not in taken and not server.name.startswith("id:")
        label = server.name if clear and server.name else _id_label(server, labels)
        yield Target(server_id=server.id, label=label, policy=entry.policy, entry=entry)


def _id_label(server: Server, chosen: set[str]) -> str:
    """The id, marked as one where some entry has chosen just that as its name."""
    label = server.id
    while label in chosen:
        label = f"id:{label}"
    return label
