"""What is done where the daemon cannot begin, or has ended unforeseen: what is owed is paid before the reason is told.

The file is refused, the ledger cannot be used, or we have made a mistake; and a server may be off because of us. Nobody
else would start it: so it is started first, by what is kept beside the promise, and watched until it stays on. Then the
process ends, and says what is wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from snaprotd.config.remains import NOTHING, Remains
from snaprotd.config.settings import default_state, notes_directory
from snaprotd.core.errors import LedgerError, SnaprotdError
from snaprotd.core.promise import ServerPower
from snaprotd.daemon.sd_notify import ServiceNotifier
from snaprotd.daemon.signals import on_end_asked
from snaprotd.engine.board import Board
from snaprotd.engine.starts.keeper import Keeper, Leases
from snaprotd.ledger.address import ledgers_in_force
from snaprotd.ledger.salvage import salvaged
from snaprotd.wiring.assembly import tools_by_terms

if TYPE_CHECKING:
    from snaprotd.wiring.access import Transport

log = structlog.get_logger("snaprotd.daemon")

ADDRESS = ("127.0.0.1", 9877)
"""Where the probes are answered meanwhile, as far as nothing else is known."""

EXTENDED_EVERY = 10.0
EXTENDED_BY = 60
"""Seconds. systemd is asked for so much more time, again and again, while something is owed."""

TRIED_AGAIN_EVERY = 5.0
"""Seconds between two attempts to begin with what cannot be paid from here, while something else is being paid."""

STARTING = "starting servers that are owed a start"

Debt = tuple[Path, ServerPower]
"""A start that is owed, and the ledger that says so."""


# -- which ledgers there are, and what they owe --------------------------------------------------------------------


def ledgers_named(config: Path, remains: Remains, environ: Mapping[str, str]) -> list[Path]:
    """Where a ledger may be: by what is left of the refused file `config`, by default, where there was one before."""
    named = [state for state in remains.states if "://" not in state]
    named += [word for word in remains.words if _is_database(word)]
    before = map(str, ledgers_in_force(notes_directory(config, environ)))
    places: dict[str, Path] = {}
    for place in (*named, default_state(environ), *before):
        with suppress(OSError, ValueError):  # no name of a file, or our own folder is gone
            places.setdefault(os.path.realpath(place), Path(os.path.abspath(place)))
    return list(places.values())


def _is_database(word: str) -> bool:
    with suppress(OSError, ValueError):
        if os.path.isfile(word) and os.path.getsize(word):  # the kernel's own have no size, and may be waited for
            with open(word, "rb") as file:
                return file.read(16) == b"SQLite format 3\0"
    return False


def debts_of(place: Path) -> list[ServerPower]:
    """The servers to which a start is owed by the ledger at `place`. Raises `LedgerError`, and nothing else."""
    try:
        return salvaged(place)
    except LedgerError:
        raise
    except Exception as error:
        raise LedgerError(f"the ledger {place} cannot be read: {type(error).__name__}: {error}") from error


async def _debts(places: Sequence[Path]) -> list[Debt]:
    owed: list[Debt] = []
    for place in places:
        try:
            owed += [(place, record) for record in await asyncio.to_thread(debts_of, place)]
        except LedgerError as error:
            if await asyncio.to_thread(place.is_file):  # most of these places hold no ledger
                log.error("nobody knows what a ledger owes", reason=str(error))
    return owed


# -- paying --------------------------------------------------------------------------------------------------------


async def pay_what_is_owed(
    places: Sequence[Path],
    environ: Mapping[str, str],
    why: Exception,
    transport: Transport | None = None,
    *,
    remains: Remains = NOTHING,
) -> bool:
    """See every server running that the ledgers name. True if nothing is owed any more, and nothing is watched.

    False where the process was asked to end before, or where something cannot be paid from here: it is to be tried
    again. `remains` are those of the refused file, which may name the token.
    """
    owed = await _debts(places)
    if not owed:
        return True
    names = ", ".join(record.label for _, record in owed)
    log.error("the daemon cannot go on, and a start is owed: servers are started first", servers=names, error=str(why))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_pages())
        stopped = asyncio.Event()
        on_end_asked(lambda _: stopped.set())
        extending = asyncio.create_task(_extend(ServiceNotifier(environ)))
        stack.callback(extending.cancel)
        cashier = Cashier(stack, Board(), environ, transport, remains)
        return await cashier.pay(owed, stopped)


@dataclass(frozen=True)
class Cashier:
    """Pays by what is kept beside each promise, without any configuration. One that cannot be paid stops no other."""

    stack: AsyncExitStack
    board: Board
    environ: Mapping[str, str]
    transport: Transport | None
    remains: Remains
    keepers: list[Keeper] = field(default_factory=list)
    """Those who see to starts, as they are begun with."""
    complaints: dict[str, str] = field(default_factory=dict)
    """Why a server's start cannot be paid from here, as it was told last."""
    _is_alone: dict[Path, bool] = field(default_factory=dict)

    async def pay(self, owed: Sequence[Debt], stopped: asyncio.Event) -> bool:
        """True if all is paid. False when `stopped`, or as soon as nothing of what is left can be paid from here."""
        unpaid, paying, failed = list(owed), set[asyncio.Task[Any]](), False
        ending = asyncio.create_task(stopped.wait())
        try:
            while True:
                begun = [(debt, await self._begin(debt)) for debt in unpaid]
                unpaid = [debt for debt, keeper in begun if keeper is None]
                paying |= {asyncio.create_task(keeper.until_paid()) for _, keeper in begun if keeper is not None}
                if not paying:
                    return not unpaid and not failed
                patience = TRIED_AGAIN_EVERY if unpaid else None
                done, _ = await asyncio.wait({ending, *paying}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if ending in done:
                    return False
                paying -= done
                failed = sum(map(_has_failed, done)) > 0 or failed
        finally:
            for task in (ending, *paying):
                task.cancel()
            await asyncio.gather(ending, *paying, return_exceptions=True)

    async def _begin(self, debt: Debt) -> Keeper | None:
        """Whoever sees to the start from now on; None where it cannot be paid from here, which is told."""
        place, record = debt
        tools_of = tools_by_terms(record.terms, place, self.environ, self.transport, self.remains)
        try:
            tools = await self.stack.enter_async_context(tools_of)
        except Exception as error:
            self._complain(record, error)
            return None
        # Whoever was killed a moment ago has a lease that is good still. We come once: it is not come back to.
        is_alone = self._is_alone.setdefault(place, tools.ledger.is_sole_user)
        leases: Leases = "ignore" if is_alone else "wait for"
        keeper = Keeper(tools, self.board, serves=lambda _: False, leases=leases)
        self.stack.push_async_callback(keeper.aclose)
        self.keepers.append(keeper)
        keeper.keep(record)
        return keeper

    def _complain(self, record: ServerPower, error: Exception) -> None:
        why = str(error) if isinstance(error, SnaprotdError) else f"{type(error).__name__}: {error}"
        if self.complaints.get(record.label) != why:
            self.complaints[record.label] = why
            log.error("what is owed cannot be paid from here", server=record.label, error=why)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    if (error := task.exception()) is not None:
        log.error("a start may not be paid: internal error", exc_info=error)
    return error is not None


async def _extend(systemd: ServiceNotifier) -> None:
    while True:
        systemd.extend(EXTENDED_BY, STARTING)
        await asyncio.sleep(EXTENDED_EVERY)


def _pages() -> AbstractAsyncContextManager[object]:
    """That servers are started first, for who asks; without its libraries, as in half of an upgrade, nobody is told."""
    try:
        from snaprotd.web.keeping import Pages  # it takes a while to load
    except Exception:
        log.exception("there are no pages")
        return nullcontext()
    return Pages(_Starting(), ADDRESS).served()


class _Starting:
    """The view of a daemon that has not begun: it is alive, and not ready."""

    def exposition(self) -> Iterator[bytes]:
        return iter(())

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

    async def events(self, after: int, limit: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        raise LedgerError(STARTING)

    def identity(self, config: str, challenge: str) -> Mapping[str, str] | None:
        return None
