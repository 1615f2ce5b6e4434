"""The way to the provider's API that a configuration describes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from snaprotd.config.settings import Config
from snaprotd.logs import redactor
from snaprotd.provider import Provider, RequestObserver
from snaprotd.provider.token import TokenSource, token_source
from snaprotd.provider.vps_org.calls import Transport as Transport
from snaprotd.provider.vps_org.client import VpsOrg

log = structlog.get_logger("snaprotd")


def read_token(config: Config, environ: Mapping[str, str]) -> TokenSource:
    """The token, which from now on is kept out of the log. Raises `TokenError` where none can be found."""
    token = token_source(config.api.token_file, environ)
    redactor.hide(token.secrets)
    return token


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
