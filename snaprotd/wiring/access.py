"""The way to the provider's API that a configuration describes."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from snaprotd.config.remains import NOTHING, Remains
from snaprotd.config.settings import ApiSettings, Config
from snaprotd.config.trust import why_not_sent_to
from snaprotd.core.errors import ConfigError, Mistake
from snaprotd.core.promise import Terms
from snaprotd.logs import redactor
from snaprotd.provider import NullObserver, Provider, RequestObserver
from snaprotd.provider.token import TokenError, TokenSource, first_accepted, token_source
from snaprotd.provider.vps_org.calls import Transport as Transport
from snaprotd.provider.vps_org.client import VpsOrg

log = structlog.get_logger("snaprotd")

_LEFT_OUT = ("path", "ledger", "api.token_file", "program_folders")
MOST_LOOKED_AT = 1024 * 1024
"""Bytes of another file in which the token is looked for."""


def read_token(config: Config, environ: Mapping[str, str], *, once: bool = False) -> TokenSource:
    """The token, which from now on is kept out of the log. `once`: for a command, which ends by itself.

    Raises `TokenError` where none can be found, `ConfigError` where the configuration would use it as something else.
    """
    token = token_source(config.api.token_file, environ, pipes=once)
    redactor.hide(token.secrets)
    mistakes = [
        Mistake(source=str(config.path), path=key, message=f"{path} {why}: it may go nowhere but to the provider's API")
        for key, path in files_of(config)
        if (why := _gives_away(path, token))
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return token


def files_of(settings: Any, around: str = "") -> Iterator[tuple[str, Path]]:
    """The files that a configuration names, each with its key; but for the token's own, and the configuration's.

    And not the ledger: whoever closes a file takes away the locks that SQLite has on it in the same process.
    """
    for each in (one for one in fields(settings) if one.init):  # the others are made from these, as one of each server
        value, key = getattr(settings, each.name), f"{around}{each.name}"
        if isinstance(value, Path) and key not in _LEFT_OUT:
            yield key, value
        elif key == "entries":
            pings = dict.fromkeys(entry.ping for entry in value if entry.ping is not None)
            yield from (("ping.url_file", ping.url_file) for ping in pings)
        elif isinstance(value, tuple):
            for index, one in enumerate(value):
                yield from files_of(one, f"{key}[{index}].") if is_dataclass(one) else ()
        elif is_dataclass(value):
            yield from files_of(value, f"{key}.")


def _gives_away(path: Path, token: TokenSource) -> str:
    """How reading this file, and using what stands in it, would give the token away; empty where it would not."""
    try:
        if any(path.samefile(other) for other in token.paths):
            return "is the token's file"
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            content = file.read(min(status.st_size, MOST_LOOKED_AT)) if stat.S_ISREG(status.st_mode) else b""
    except (OSError, ValueError):
        return ""  # whoever reads it says what is wrong
    return "holds the API token" if any(secret.encode() in content for secret in token.secrets()) else ""


@asynccontextmanager
async def cloud_by_terms(
    terms: Terms, environ: Mapping[str, str], transport: Transport | None = None, remains: Remains = NOTHING
) -> AsyncIterator[Provider]:
    """The provider's API by what is kept beside a promise.

    Raises `TokenError` where no token can be found now, or where it may not be sent to the address that is kept.
    """
    base_url = terms.base_url or ApiSettings.base_url
    if why := why_not_sent_to(base_url, environ):
        raise TokenError(why)
    token = _token_by_terms(terms.token_file, urlsplit(base_url).netloc, environ, remains)
    async with VpsOrg(
        base_url=base_url,
        token=token,
        timeout=terms.request_timeout,
        observer=NullObserver(),
        transport=transport,
    ) as cloud:
        yield cloud


def _token_by_terms(kept: str, host: str, environ: Mapping[str, str], remains: Remains) -> TokenSource:
    """The token where it was; else where it may be now, unless the file names another host: that one's goes nowhere."""
    hosts = {urlsplit(url).netloc for url in remains.base_urls}
    is_ours = not hosts or host in hosts
    named = [Path(name) for name in remains.token_files] if is_ours else []
    if not kept:
        return first_accepted(named, environ, environment_first=True)
    return first_accepted([Path(kept), *named], environ if is_ours else {})


@asynccontextmanager
async def open_cloud(
    config: Config,
    environ: Mapping[str, str],
    observer: RequestObserver,
    transport: Transport | None = None,
    *,
    once: bool = True,
) -> AsyncIterator[Provider]:
    """The provider's API. `once`: for a command, which ends by itself. Raises as `read_token` does."""
    token = await asyncio.to_thread(read_token, config, environ, once=once)
    for warning in token.warnings():
        log.warning(warning)
    async with VpsOrg(
        base_url=config.api.base_url,
        token=token,
        requests_per_second=config.api.requests_per_second,
        timeout=config.api.timeout,
        observer=observer,
        transport=transport,
    ) as cloud:
        yield cloud
