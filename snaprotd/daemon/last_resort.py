"""What is done where the daemon cannot begin: what is owed is paid before the reason is told.

The file is refused, or the ledger cannot be used; and a server may be off because of us. Nobody else would start it: so
it is started first, by what is kept beside the promise, and watched until it stays on. Then the process ends, and says
what is wrong.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from snaprotd.config.settings import default_state, state_directory
from snaprotd.core.errors import LedgerError, SnaprotdError
from snaprotd.core.promise import ServerPower
from snaprotd.daemon.sd_notify import ServiceNotifier
from snaprotd.daemon.signals import on_end_asked
from snaprotd.engine.board import Board
from snaprotd.engine.keeper import Keeper, Leases
from snaprotd.ledger.address import ledgers_in_force
from snaprotd.ledger.salvage import salvaged
from snaprotd.provider.token import TokenError
from snaprotd.web.site import serving
from snaprotd.wiring.access import Transport
from snaprotd.wiring.assembly import tools_by_terms

log = structlog.get_logger("snaprotd.daemon")

ADDRESS = ("127.0.0.1", 9877)
"""Where the probes are answered meanwhile, as far as nothing else is known."""

EXTENDED_EVERY = 10.0
EXTENDED_BY = 60
"""Seconds. systemd is asked for so much more time, again and again, while something is owed."""

STARTING = "starting servers that are owed a start"


def ledgers_named(path: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """Where a ledger may be: by the line `state` of a refused file, where there was one before, and the default."""
    text = ""
    with suppress(OSError, ValueError):
        text = path.read_bytes()[: 4 * 1024 * 1024].decode(errors="replace") if path else ""
    named = re.findall(r"""^state:\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", text, re.MULTILINE)
    places = [*(name for name in named if "://" not in name), default_state(environ)]
    before = ledgers_in_force(state_directory(environ))
    return [Path(place) for place in dict.fromkeys(os.path.abspath(place) for place in (*places, *before))]


async def pay_what_is_owed(
    places: Sequence[Path], environ: Mapping[str, str], why: SnaprotdError, transport: Transport | None = None
) -> bool:
    """See every server running that the ledgers name. True if nothing is owed any more, and nothing is watched.

    False where the process was asked to end before, or where it cannot be paid from here.
    """
    owed: list[tuple[Path, ServerPower]] = []
    for place in places:
        with suppress(LedgerError):  # most of these places hold no ledger
            owed += [(place, record) for record in await asyncio.to_thread(salvaged, place)]
    if not owed:
        return True
    names = ", ".join(record.label for _, record in owed)
    log.error("the daemon cannot begin, and a start is owed: servers are started first", servers=names, error=str(why))
    async with AsyncExitStack() as stack:
        with suppress(SnaprotdError):
            await stack.enter_async_context(serving(_Starting(), ADDRESS))
        stopped = asyncio.Event()
        on_end_asked(lambda _: stopped.set())
        extending = asyncio.create_task(_extend(ServiceNotifier(environ)))
        stack.callback(extending.cancel)
        try:
            keepers = await keepers_by_terms(stack, owed, Board(), environ, transport)
        except TokenError as error:
            log.error("what is owed cannot be paid from here", servers=names, error=str(error))
            return False
        return await _all_paid(keepers, stopped)


async def keepers_by_terms(
    stack: AsyncExitStack,
    owed: Sequence[tuple[Path, ServerPower]],
    board: Board,
    environ: Mapping[str, str],
    transport: Transport | None,
) -> list[Keeper]:
    """A keeper for each start, which needs no configuration. Raises `TokenError` where a token cannot be had."""
    keepers = []
    alone: dict[Path, bool] = {}
    for place, record in owed:
        tools = await stack.enter_async_context(tools_by_terms(record.terms, place, environ, transport))
        # Whoever was killed a moment ago has a lease that is good still. We come once: it is not come back to.
        is_alone = alone.setdefault(place, tools.ledger.is_sole_user)
        leases: Leases = "ignore" if is_alone else "wait for"
        keeper = Keeper(tools, board, serves=lambda _: False, leases=leases)
        stack.push_async_callback(keeper.aclose)
        keeper.keep(record)
        keepers.append(keeper)
    return keepers


async def _all_paid(keepers: Sequence[Keeper], stopped: asyncio.Event) -> bool:
    paying: asyncio.Future[Any] = asyncio.gather(*(keeper.until_paid() for keeper in keepers))
    ending: asyncio.Future[Any] = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({paying, ending}, return_when=asyncio.FIRST_COMPLETED)
    paid = paying.done()
    for task in (paying, ending):
        task.cancel()
    await asyncio.gather(paying, ending, return_exceptions=True)
    return paid


async def _extend(systemd: ServiceNotifier) -> None:
    while True:
        systemd.extend(EXTENDED_BY, STARTING)
        await asyncio.sleep(EXTENDED_EVERY)


class _Starting:
    """The view of a daemon that has not begun: it is alive, and not ready."""

    def exposition(self) -> bytes:
        return b""

    def ailments(self) -> Sequence[str]:
        return []

    def unready(self) -> Sequence[str]:
        return [STARTING]

    def remarks(self) -> Sequence[str]:
        return []

    def head(self) -> Mapping[str, Any]:
        raise LedgerError(STARTING)

    async def status(self) -> Mapping[str, Any]:
        raise LedgerError(STARTING)

    async def server_status(self, name: str) -> Mapping[str, Any] | None:
        raise LedgerError(STARTING)
