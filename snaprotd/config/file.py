"""The configuration file: YAML to `Config`, or every mistake in it with its line.

The text becomes plain values (`yaml_nodes`), these are held to the shape of the file (`shape`), what is wrong is said
in sentences (`mistakes`), and the layers of policies are checked together (`layers`).
"""

from __future__ import annotations

import gc
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from snaprotd.config.channels import Heartbeat, Ping, channels_of
from snaprotd.config.layers import (
    IDENTITY,
    Layer,
    check_channels,
    check_layers,
    defaults_of,
    layers_of,
    merged_layers,
    retention_of,
    schedule_of,
    texts_of,
)
from snaprotd.config.mistakes import Findings, shown_path
from snaprotd.config.parts import read_shape
from snaprotd.config.settings import (
    ApiSettings,
    Config,
    MetricsSettings,
    ServerEntry,
    as_written,
    default_state,
    ledger_file,
)
from snaprotd.config.shape import FILE, FileKeys, PolicyKeys
from snaprotd.config.text import yaml_nodes
from snaprotd.config.trust import check_trust, program_folders, secret_folders
from snaprotd.core.errors import ConfigError, Mistake
from snaprotd.core.policy import Policy, Retry
from snaprotd.core.schedule import DEFAULT_TIMEZONE
from snaprotd.core.words import kind_of_file

SYSTEM_PATH = Path("/etc/snaprotd/config.yaml")
LARGEST_FILE = 4 * 1024 * 1024
"""Bytes. 10,000 servers, each with a name and rules of its own, take a quarter of that."""
LARGE = 64 * 1024
"""Letters of a file that takes a while to be judged."""


# --- The file ----------------------------------------------------------------------------------------------------


def find_config(explicit: str | Path | None, environ: Mapping[str, str]) -> Path:
    """`--config`, then $SNAPROTD_CONFIG, then /etc/snaprotd/config.yaml. Raises ConfigError if it does not exist."""
    path, origin = named_config(explicit, environ)
    try:
        path.stat()
    except FileNotFoundError:
        raise _unreadable(path, f"no such file ({origin})") from None
    except (OSError, ValueError):
        pass  # to read it fails too, and says why
    return path


def named_config(explicit: str | Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    """As `find_config`, whether it exists or not; and who named it, in words."""
    if explicit:
        return Path(explicit), "named by --config"
    if environ.get("SNAPROTD_CONFIG"):
        return Path(environ["SNAPROTD_CONFIG"]), "named by $SNAPROTD_CONFIG"
    return SYSTEM_PATH, "the default: name another one with --config PATH or $SNAPROTD_CONFIG"


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file. Raises ConfigError with every mistake in it; a file that cannot be read is one."""
    raw = _content(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"not UTF-8 text (line {line}): save the file as UTF-8") from None
    return parse(text, str(path), environ)


def digest_of(path: Path) -> str:
    """The digest that `load` would give its Config now. Raises ConfigError where the file cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: Path) -> bytes:
    raw = beginning_of(path)
    if len(raw) > LARGEST_FILE:
        raise _unreadable(path, f"larger than {LARGEST_FILE // 1024**2} MiB: this is no configuration of snaprotd")
    return raw


def beginning_of(path: Path) -> bytes:
    """The file's content, of a larger one than `LARGEST_FILE` a byte more than that. Raises ConfigError.

    What is no file is not even opened: a pipe without a writer would be waited for, and some devices act.
    """
    try:
        _refuse_no_file(path, path.stat().st_mode)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            _refuse_no_file(path, status.st_mode)  # it may be another one by now
            return file.read(min(status.st_size, LARGEST_FILE + 1))  # files of the kernel have none, and may never end
    except FileNotFoundError:
        raise _unreadable(path, "no such file") from None
    except PermissionError:
        raise _unreadable(path, "permission denied: the user that runs snaprotd may not read it") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _refuse_no_file(path: Path, mode: int) -> None:
    kind = kind_of_file(mode)
    if kind == "a directory":
        raise _unreadable(path, "a directory, not a file: name the file in it")
    if kind:
        raise _unreadable(path, f"{kind}, not a file: it is read again and again, so write it to a file")


def _unreadable(path: Path, message: str) -> ConfigError:
    return ConfigError([Mistake(source=str(path), message=message)])


def parse(text: str, source: str, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file's content; `source` is what the mistakes call it. Raises ConfigError with every mistake."""
    with uncollected(when=len(text) > LARGE):
        document = yaml_nodes.read(text)
        findings = Findings(source, document)
        try:
            keys = read_shape(document, findings)
            if keys is not None:
                check_layers(keys, findings)
                check_channels(keys, findings)
                check_trust(keys, Path(source), environ, findings)
            findings.end(text)
        finally:
            findings.dismantle()
            document.dismantle()
        assert keys is not None  # or there was a mistake
        digest = hashlib.sha256(text.encode()).hexdigest()
        return _config(keys, Path(source), digest, environ)


def is_large(path: Path) -> bool:
    """Whether the file is one that takes a while to be judged; not where that cannot be told."""
    try:
        return path.stat().st_size > LARGE
    except (OSError, ValueError):
        return False


_WANTED_OFF: list[bool] = []
"""Of each who wants the garbage collector to be off now: whether it was on when they came."""
_COUNTING = threading.Lock()


@contextmanager
def uncollected(*, when: bool, stays: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Keep the garbage collector, which stops all threads, from what is made here `when` that is much: none is garbage.

    What `stays` is not looked at afterwards either: it has no circles. Of several at one time the last switches it on.
    """
    if not when:
        yield
        return
    with _COUNTING:
        _WANTED_OFF.append(gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _COUNTING:
            if stays():
                gc.freeze()
            was_on = _WANTED_OFF[0]
            _WANTED_OFF.pop()
            if was_on and not _WANTED_OFF:
                gc.enable()


def _config(keys: FileKeys, path: Path, digest: str, environ: Mapping[str, str]) -> Config:
    settings = {"state": default_state(environ)} | _settings(keys, Config)
    settings["api"] = ApiSettings(**_settings(keys.get("api", {}), ApiSettings))
    settings["metrics"] = MetricsSettings(**_settings(keys.get("metrics", {}), MetricsSettings))
    settings["notify"] = channels_of(keys.get("notify", []))
    if "heartbeat" in keys:
        settings["heartbeat"] = Heartbeat(**_settings(keys["heartbeat"], Heartbeat))
    settings |= {"secret_folders": secret_folders(path, environ), "program_folders": program_folders(environ)}
    settings["ledger"] = ledger_file(settings["state"], path, environ)
    return Config(**settings, entries=tuple(_entries(keys)), path=path, digest=digest)


def _settings(keys: Mapping[str, Any], record: type) -> dict[str, Any]:
    """The keys that are fields of `record`, durations in seconds."""
    names = {each.name for each in fields(record)}
    given = {key: value for key, value in keys.items() if key in names}
    return {key: _setting(value) for key, value in given.items()}


def _setting(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return tuple(value) if isinstance(value, list) else value


def _entries(keys: FileKeys) -> Iterator[ServerEntry]:
    plain: dict[str | None, _Resolved] = {}
    """Of the servers that have no policy keys of their own, by the policies that they name: thousands share a few."""
    for index, own in enumerate(keys["servers"]):
        named = own.get("policy")
        is_plain = own.keys() <= IDENTITY
        resolved = plain.get(named) if is_plain else None
        if resolved is None:
            resolved = _resolved(layers_of(keys, ("servers", index), own))
            if is_plain:
                plain[named] = resolved
        yield ServerEntry(
            key=str(own["id"]) if "id" in own else None,
            match=own.get("match"),
            name=own.get("name"),
            policy=resolved.policy,
            origins=resolved.origins,
            ping=resolved.ping,
        )


class _Resolved(NamedTuple):
    """What the layers of a server come to."""

    policy: Policy
    origins: Mapping[str, str]
    ping: Ping | None


def _resolved(layers: Sequence[Layer]) -> _Resolved:
    merged = merged_layers(layers)
    given = {key: _plain(key, value) for key, (value, _) in merged.items()}
    ping = given.pop("ping", None)
    policy = Policy(schedule=schedule_of(given), **given)
    origins = dict.fromkeys(PolicyKeys.__annotations__, "default")
    origins |= {key: shown_path(path) for key, (_, path) in merged.items()}
    del origins["ping"]
    return _Resolved(policy=policy, origins=origins, ping=ping and Ping(**ping))


def _plain(key: str, value: Any) -> Any:
    """A value of the file as the field of Policy with its name takes it."""
    if key == "keep":
        return retention_of(value)
    if key == "retry":
        return Retry(**value)
    if key in ("schedule", "window"):
        return texts_of(value)
    return tuple(value) if isinstance(value, list) else value


# --- Schema ------------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors, with the defaults."""
    schema = FILE.json_schema()
    definitions = schema["$defs"]
    _add_defaults(schema, defaults_of(Config))
    _add_defaults(definitions["ApiKeys"], defaults_of(ApiSettings))
    _add_defaults(definitions["RetryKeys"], defaults_of(Retry))
    _add_defaults(definitions["PingKeys"], defaults_of(Ping))
    _add_defaults(definitions["HeartbeatKeys"], defaults_of(Heartbeat))
    _add_defaults(definitions["MetricsKeys"], defaults_of(MetricsSettings))
    _add_defaults(definitions["PolicyKeys"], defaults_of(Policy) | {"timezone": DEFAULT_TIMEZONE})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "snaprotd"}
    return schema | head | {"required": ["servers"]}


def _add_defaults(schema: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        if key in schema["properties"] and value is not None and not isinstance(value, (ApiSettings, MetricsSettings)):
            schema["properties"][key]["default"] = as_written(key, value)
