"""Watches the configuration file by its content, and tells of each new one: taken whole, or refused whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from snaprotd.config.file import digest_of, is_large, load, uncollected
from snaprotd.config.settings import Config
from snaprotd.core.errors import ConfigError, Mistake, SnaprotdError

EVERY = 2.0
"""Seconds between two looks at the file. Content is what counts: neither a rename nor the swap of a symbolic link, as
Kubernetes does it, changes a time that could be relied on."""

STEADY = 1.0
"""Seconds for which new content must stay as it is: somebody may be writing it still."""

RESTART: Mapping[str, Callable[[Config], object]] = {
    "state": lambda config: config.state,
    "listen": lambda config: config.listen,
    "web_config": lambda config: config.web_config,
    "instance": lambda config: config.instance,
    "api.base_url": lambda config: config.api.base_url,
}
"""What cannot change under rotations that are going on."""


class ConfigWatch:
    """`accept` is given each good content, and may refuse it still; `refuse` is told why, once for each content."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        accept: Callable[[Config], Awaitable[None]],
        refuse: Callable[[SnaprotdError], None],
        begin: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """`begin` and `end` are called around each reading, whatever comes of it."""
        self._current = config
        self._environ = environ
        self._accept = accept
        self._refuse = refuse
        self._begin = begin
        self._end = end
        self._judged = config.digest
        """The content that was accepted or refused last; empty where it could not be read, or is to be tried again."""
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read the file at once (SIGHUP), changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """Watch for ever."""
        while True:
            try:
                async with asyncio.timeout(EVERY):
                    await self._asked.wait()
            except TimeoutError:
                await self._look()
            else:
                self._asked.clear()
                await self._read()

    async def _look(self) -> None:
        digest = await self._digest()
        if digest == self._judged:
            return
        await asyncio.sleep(STEADY)
        if digest == await self._digest():
            await self._read()

    async def _digest(self) -> str:
        try:
            return await asyncio.to_thread(digest_of, self._current.path)
        except ConfigError:
            return ""

    async def _read(self) -> None:
        self._begin()
        try:
            await self._take()
        finally:
            self._end()

    async def _take(self) -> None:
        self._judged = await self._digest()
        try:
            with uncollected(when=is_large(self._current.path)):
                config = await asyncio.to_thread(load, self._current.path, self._environ)
                _refuse_restart(self._current, config)
                await self._accept(config)
        except ConfigError as error:
            self._refuse(error)
        except SnaprotdError as error:
            self._judged = ""  # it may pass: a ledger that is busy, a token that is still to be written
            self._refuse(error)
        else:
            self._current, self._judged = config, config.digest


def _refuse_restart(old: Config, new: Config) -> None:
    mistakes = [
        Mistake(source=str(new.path), path=key, message="changing it needs a restart: the whole new file is left out")
        for key, value in RESTART.items()
        if value(old) != value(new)
    ]
    if mistakes:
        raise ConfigError(mistakes)
