"""The way to the provider's API that a configuration describes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from snaprotd.config.remains import NOTHING, Remains
from snaprotd.config.settings import ApiSettings, Config
from snaprotd.core.promise import Terms
from snaprotd.logs import redactor
from snaprotd.provider import NullObserver, Provider, RequestObserver
from snaprotd.provider.token import TokenSource, first_accepted, token_source
from snaprotd.provider.vps_org.calls import Transport as Transport
from snaprotd.provider.vps_org.client import VpsOrg

log = structlog.get_logger("snaprotd")


def read_token(config: Config, environ: Mapping[str, str]) -> TokenSource:
    """The token, which from now on is kept out of the log. Raises `TokenError` where none can be found."""
    token = token_source(config.api.token_file, environ)
    redactor.hide(token.secrets)
    return token


@asynccontextmanager
async def cloud_by_terms(
    terms: Terms, environ: Mapping[str, str], transport: Transport | None = None, remains: Remains = NOTHING
) -> AsyncIterator[Provider]:
    """The provider's API by what is kept beside a promise. Raises `TokenError` where no token can be found now."""
    base_url = terms.base_url or ApiSettings.base_url
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
    config: Config, environ: Mapping[str, str], observer: RequestObserver, transport: Transport | None = None
) -> AsyncIterator[Provider]:
    """The provider's API. Raises `TokenError` where no token can be found."""
    token = read_token(config, environ)
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
