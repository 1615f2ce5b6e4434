"""The file of `web_config`: TLS and passwords of the pages, in the form of Prometheus' exporter toolkit.

What the toolkit knows and we do not is refused, as a misspelt key is: a protection that somebody wrote down and that is
not there would be believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snaprotd.config.file import beginning_of
from snaprotd.config.mistakes import Findings, nearest
from snaprotd.config.text import yaml_nodes
from snaprotd.config.text.document import Document, KeyPath
from snaprotd.core.errors import ConfigError, Mistake

LARGEST = 256 * 1024
"""Bytes."""
DEAREST = 15
"""Cost of a bcrypt hash: one guess takes a second or more of a core."""

VERSIONS = ("TLS12", "TLS13")
CLIENT_AUTH = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
HEADERS = (
    "Content-Security-Policy",
    "X-Frame-Options",
    "X-Content-Type-Options",
    "X-XSS-Protection",
    "Strict-Transport-Security",
)


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """How the pages are protected."""

    path: Path
    cert_file: Path | None = None
    """With its chain, in PEM; None where the pages are served without TLS."""
    key_file: Path | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    client_ca_file: Path | None = None
    client_auth_type: str = "NoClientCert"
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The bcrypt hash of each user's password."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to each answer."""


def read_web_file(path: Path) -> WebFile:
    """Raises ConfigError with every mistake in it; none is shown with its line, which may hold a hash."""
    raw = beginning_of(path)
    if len(raw) > LARGEST:
        raise ConfigError([Mistake(source=str(path), message=f"larger than {LARGEST // 1024} KiB: no web_config")])
    try:
        document = yaml_nodes.read(raw.decode())
    except UnicodeDecodeError:
        raise ConfigError([Mistake(source=str(path), message="not UTF-8 text: save the file as UTF-8")]) from None
    findings = Findings(str(path), document)
    for flaw in document.flaws:
        findings.add_flaw(flaw)
    if not document.flaws:
        _judge(document, findings)
    findings.end("")
    return _web_file(path, document.value())


def _web_file(path: Path, keys: Any) -> WebFile:
    tls = keys.get("tls_server_config", {})
    files = {key: path.parent / tls[key] for key in ("cert_file", "key_file", "client_ca_file") if key in tls}
    words = {key: tls[key] for key in ("min_version", "max_version", "client_auth_type") if key in tls}
    headers = keys.get("http_server_config", {}).get("headers", {})
    return WebFile(path=path, users=keys.get("basic_auth_users", {}), headers=headers, **files, **words)


# -- what each key may hold ------------------------------------------------------------------------------------------

Check = Callable[[object], str]
"""What a value should be; empty where it is that."""


def _is_path(value: object) -> str:
    return "" if isinstance(value, str) and value and value.isprintable() else "should be the path of a file"


def _is_switch(value: object) -> str:
    return "" if isinstance(value, bool) else "should be true or false"


def _one_of(*words: str) -> Check:
    return lambda value: "" if value in words else f"should be one of {', '.join(f'`{word}`' for word in words)}"


def _is_header(value: object) -> str:
    fits = isinstance(value, str) and re.fullmatch(r"[\x20-\x7e]{1,1000}", value)
    return "" if fits else "should be text of 1 to 1000 plain characters"


def _is_hash(value: object) -> str:
    found = re.fullmatch(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}", value if isinstance(value, str) else "")
    if found is None:
        return "should be a bcrypt hash of the password, as `htpasswd -nBC 10 USER` prints it after the colon"
    costs = int(found[1])
    return "" if 4 <= costs <= DEAREST else f"should be a bcrypt hash of a cost from 4 to {DEAREST}"


_TLS: Mapping[str, Check] = {
    "cert_file": _is_path,
    "key_file": _is_path,
    "min_version": _one_of(*VERSIONS),
    "max_version": _one_of(*VERSIONS),
    "client_ca_file": _is_path,
    "client_auth_type": _one_of(*CLIENT_AUTH),
}
_TOP = ("tls_server_config", "basic_auth_users", "http_server_config")


def _judge(document: Document, findings: Findings) -> None:
    keys = document.value()
    if not isinstance(keys, dict) or not keys:
        findings.add((), f"should be a mapping with {' or '.join(f'`{key}`' for key in _TOP[:2])} in it")
        return
    for path, value, check in _leaves(keys, findings):
        if expected := check(value):
            findings.add(path, expected)
    if not keys.keys() & set(_TOP[:2]):
        findings.add((), "protects nothing: give it `tls_server_config` or `basic_auth_users`")
    _judge_tls(keys.get("tls_server_config"), findings)


def _leaves(keys: Mapping[str, Any], findings: Findings) -> Iterator[tuple[KeyPath, object, Check]]:
    """Each value that has a form, with what it should be; keys that nobody knows are refused on the way."""
    for key in _known((), keys, _TOP, findings):
        section = keys[key]
        if not isinstance(section, dict) or not section:
            findings.add((key,), "should be a mapping with something in it")
        elif key == "basic_auth_users":
            yield from (((key, user), word, _is_hash) for user, word in section.items())
            _judge_users(section, findings)
        elif key == "tls_server_config":
            yield from (((key, one), section[one], _TLS[one]) for one in _known((key,), section, _TLS, findings))
        else:
            yield from _http_leaves(section, findings)


def _http_leaves(section: Mapping[str, Any], findings: Findings) -> Iterator[tuple[KeyPath, object, Check]]:
    around: KeyPath = ("http_server_config",)
    for key in _known(around, section, ("http2", "headers"), findings):
        if key == "http2":
            yield (*around, key), section[key], _is_switch
        elif not isinstance(section[key], dict):
            findings.add((*around, key), "should be a mapping of headers")
        else:
            names = _known((*around, key), section[key], HEADERS, findings)
            yield from (((*around, key, name), section[key][name], _is_header) for name in names)


def _known(around: KeyPath, keys: Mapping[str, Any], allowed: Any, findings: Findings) -> list[str]:
    """The keys that are allowed; the others are refused."""
    for key in keys:
        if key not in allowed:
            meant = nearest(key, list(allowed))
            hint = f", did you mean `{meant}`?" if meant else ""
            if not re.fullmatch("[A-Za-z_-]{1,40}", key):  # it may be a line of a secret file
                findings.add(around, f"has what is none of the keys allowed here: {', '.join(allowed)}")
                continue
            findings.add((*around, key), f"unknown key{hint} (allowed here: {', '.join(allowed)})", at_key=True)
    return [key for key in keys if key in allowed]


def _judge_users(users: Mapping[str, Any], findings: Findings) -> None:
    for user in users:
        if not user or ":" in user or not user.isprintable() or len(user) > 200:
            findings.add(("basic_auth_users", user), "should be a user's name without a colon", at_key=True)


def _judge_tls(tls: object, findings: Findings) -> None:
    around = "tls_server_config"
    if not isinstance(tls, dict) or not tls:
        return
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if one not in tls and findings.trusts(around, one):
            findings.add((around,), f"`{one}` is missing" + (f": there is a `{other}`" if other in tls else ""))
    if (tls.get("min_version"), tls.get("max_version")) == ("TLS13", "TLS12"):
        findings.add((around, "max_version"), "should not be below `min_version`")
    asks = tls.get("client_auth_type", CLIENT_AUTH[0]) != CLIENT_AUTH[0]
    if asks != ("client_ca_file" in tls):
        findings.add((around,), "`client_ca_file` and a `client_auth_type` that verifies go together")
