"""Keeps the pages up: tries again where they cannot be served, and goes by the file of `web_config` as it is now.

Without pages the daemon does its work all the same; with pages that are not protected as somebody wrote down, there are
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from snaprotd.core.errors import SnaprotdError
from snaprotd.web.certificate import Certificate, certificate_of
from snaprotd.web.door import Door
from snaprotd.web.listener import Address, Listener, open_listener
from snaprotd.web.protection import Protection, Wanted, stamp_of
from snaprotd.web.site import View, application

log = structlog.get_logger("snaprotd.web")

LOOK_EVERY = 5.0
"""Seconds between two looks at the files, and at the socket's."""
AGAIN_EVERY = 15.0
"""Seconds between two attempts to serve the pages."""
CERTIFICATE_EVERY = 3600.0
"""Seconds between two looks at the certificate: one ends, or begins to be valid, by the clock alone."""
STEADY = 1.0
"""Seconds for which a file must stay as it is: somebody may be writing it, or has a second one still to write."""
TOLD_AT_FIRST = 4
TOLD_EVERY = 40
"""Attempts: each of the first is told, then one in ten minutes."""


class Pages:
    """The pages of one daemon. `url` is where they are, None where they are nowhere now."""

    def __init__(
        self,
        view: View,
        address: Address | None,
        *,
        hosts: tuple[str, ...] = (),
        read: Callable[[], Wanted] | None = None,
    ) -> None:
        """`read` reads the file of `web_config`, and raises `SnaprotdError` where it cannot be gone by."""
        self.hosts = hosts
        """Names by which the pages may be asked for, in lower case, beyond addresses and loopback names."""
        self.url: str | None = None
        self.certificate: Certificate | None = None
        """That in force, as it was looked at last."""
        self.refused: SnaprotdError | None = None
        """Why the files as they are now are not in force; None where they are."""
        self.why_away: SnaprotdError | None = None
        """Why they cannot be served; None where they are, or where nobody wants them."""
        self._view = view
        self._address = address
        self._read = read
        self._wanted: Wanted | None = None
        self._judged = ""
        self._looked_at = 0.0
        self._door: Door | None = None
        self._listener: Listener | None = None
        self._attempts = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Pages]:
        """Serve them meanwhile, as far as possible. Raises `SnaprotdError` for mistakes in the file of `web_config`."""
        await self._begin()
        keeping = asyncio.ensure_future(self._keep()) if self._address is not None else None
        try:
            yield self
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            await self._close()

    async def _begin(self) -> None:
        """Serve them, if that is possible now. Raises `SnaprotdError` where the file of `web_config` has mistakes."""
        if self._address is not None:
            if self._read is not None:
                await asyncio.to_thread(self._read)
            await self._try()

    async def _keep(self) -> None:
        """For ever."""
        while True:
            is_served = self.url is not None
            await asyncio.sleep(LOOK_EVERY if is_served else AGAIN_EVERY)
            try:
                await (self._look() if is_served else self._try())
            except Exception:
                log.exception("internal error", work="pages")

    async def _close(self) -> None:
        self.url = None
        if self._door is not None:
            await self._door.close()
        if self._listener is not None:
            self._listener.close()
        self._listener = self._door = None

    async def _try(self) -> None:
        assert self._address is not None
        try:
            protection = await self._protection()
            self._listener = await asyncio.to_thread(open_listener, self._address)
        except SnaprotdError as error:
            self._tell(error)
            return
        self.url = self._listener.url(tls=protection.tls is not None)
        self._door = Door(application(self._view), protection, self._names)
        self._door.open(self._listener.socket)
        if self._attempts:
            log.info("the pages are served again", listen=self.url)
        self._attempts, self.why_away = 0, None

    def _tell(self, error: SnaprotdError) -> None:
        """There is no page that could show it."""
        self.why_away = error
        if self._attempts < TOLD_AT_FIRST or self._attempts % TOLD_EVERY == 0:
            log.error("no status page, no metrics, no probes: tried again and again", error=str(error))
        self._attempts += 1

    def _names(self) -> tuple[str, ...] | None:
        if not isinstance(self._address, tuple):
            return None
        return (*self.hosts, self._address[0].lower().removesuffix("."))

    async def _protection(self) -> Protection:
        """By the file as it is now; the stamp is older than what is read, so that nothing new is overlooked."""
        if self._read is None:
            return Protection()
        self._wanted = await asyncio.to_thread(self._read)
        self._judged = await asyncio.to_thread(stamp_of, self._wanted)
        protection = await asyncio.to_thread(Protection, self._wanted)
        await self._look_at_certificate(self._wanted)
        return protection

    async def _look_at_certificate(self, wanted: Wanted) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        self.certificate = await asyncio.to_thread(certificate_of, wanted)

    async def _look(self) -> None:
        if self._listener is not None and not self._listener.is_there:
            log.warning("the socket's file was removed: it is made again", listen=self.url)
            await self._close()
            await self._try()
        if self._wanted is None or self._door is None:
            return
        stamp = await asyncio.to_thread(stamp_of, self._wanted)
        if stamp != self._judged:
            await asyncio.sleep(STEADY)
            if stamp == await asyncio.to_thread(stamp_of, self._wanted):
                await self._reread(self._door, stamp)
        elif self.refused is None and asyncio.get_running_loop().time() - self._looked_at > CERTIFICATE_EVERY:
            with suppress(SnaprotdError):  # changed at this moment: seen at the next look
                await self._look_at_certificate(self._wanted)

    async def _reread(self, door: Door, stamp: str) -> None:
        self._judged = stamp
        try:
            door.protect(await self._protection())
        except SnaprotdError as error:
            self.refused = error
            log.error("the new web_config is refused, the old one stays in force", error=str(error))
        else:
            self.refused = None
            if self._listener is not None:
                self.url = self._listener.url(tls=door.protection.tls is not None)
            log.info("web_config was read again and is in force", listen=self.url)
