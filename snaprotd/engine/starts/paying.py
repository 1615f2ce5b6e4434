"""A start that is owed is paid: by a rotation that runs, or by the keeper. Each visit looks before it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

import structlog

from snaprotd.core import power
from snaprotd.core.errors import (
    Anothers,
    Busy,
    CalledOff,
    CloudError,
    HeldBack,
    LedgerError,
    NotFound,
    Temporary,
    Unclear,
)
from snaprotd.core.model import Server, Snapshot, SnapshotState, is_one_server
from snaprotd.core.ownership import taken_since
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, is_unaccounted_for
from snaprotd.core.rotation import Done, Failed, Outcome, Waiting
from snaprotd.engine.run import Transition
from snaprotd.engine.tools import Tools
from snaprotd.provider import Priority

LONGEST_LOOK = 30.0
"""Seconds that a start waits to learn whether something speaks against it."""

log = structlog.get_logger("snaprotd.rotation")


class Debtor(Protocol):
    """A server that a start is owed to, and what may be done with it: a rotation that runs, or the keeper's own."""

    tools: Tools

    @property
    def server_id(self) -> str: ...

    @property
    def ids(self) -> Collection[str]:
        """Every id that it was ever known by."""

    @property
    def instance(self) -> str:
        """Whose snapshots of it are ours."""

    @property
    def power(self) -> Power:
        """The record as of now."""

    is_cut_off: bool
    """What the ledger has of it could not be read when that was asked last."""

    @property
    def start_is_overdue(self) -> bool:
        """It has been waited for longer than `start_timeout`."""

    @property
    def start_timeout(self) -> float: ...

    def look(self, server: Server) -> None:
        """Note what was seen."""

    def update_power(self, transition: Transition) -> object:
        """Change the record in memory."""

    async def save_power_if_possible(self, transition: Transition) -> bool:
        """Change the record, on disk before anything else is done, if that can be."""

    def guard(self) -> None: ...

    def start_failed(self) -> None: ...

    async def look_for(self, server_id: str) -> Server:
        """The server that has this id now. Raises as `Provider.server` does."""


async def pay(debtor: Debtor) -> Outcome:
    """One visit to a server that a start is owed to: look, and ask for the start where it is off."""
    try:
        server = await found(debtor)
    except NotFound as error:
        listed = await _listed_or_gone(debtor, error)
        if not isinstance(listed, Server):
            return listed
        server = listed
    except CloudError as error:
        server = await _as_listed(debtor, error)
    debtor.look(server)
    if server.is_active:
        return Done() if debtor.power.watched else Waiting("the server is active; one more look makes it certain")
    if debtor.power.in_doubt:
        return Done()
    if server.is_untouchable:
        return Waiting(f"the server is {server.status}: it will be started when that is over")
    # A server that hangs between two states for all of `start_timeout` is asked again too.
    if not server.is_stopped and not debtor.start_is_overdue:
        return Waiting(f"the server is {server.status}")
    if not debtor.power.may_be_asked_to_start(debtor.tools.poll_interval):
        return Waiting(f"the server has been asked to start and is {server.status}")
    return await _objection(debtor) or await _ask_to_start(debtor, server)


async def let_go(debtor: Debtor, account: str) -> ServerPower | None:
    """What the ledger has of the server, where by that its start is owed no more. Raises `LedgerError`."""
    debtor.is_cut_off = True
    record = await debtor.tools.ledger.starts.kept(account, debtor.server_id)
    debtor.is_cut_off = False
    if record is None or not record.lets_go_of(debtor.power):
        return None
    write = log.warning if record.let_go else log.info  # by a person, or by whoever has started it
    write("nothing is owed to the server any more", server=record.label, let_go=record.let_go or None)
    return record


async def _objection(debtor: Debtor) -> Outcome | None:
    """What its snapshots say against a start that is due; None where they say nothing."""
    if await _may_be_in_the_middle(debtor):
        return Waiting("a snapshot of the server is in progress, and the ledger, which tells whose, cannot be read")
    if (newer := await _newer_than_the_debt(debtor)) is not None:
        debtor.update_power(power.doubted)
        log.error("not started: a newer snapshot of ours is not in the ledger; is it an old copy?", snapshot=newer.name)
        return Done()
    return None


async def _newer_than_the_debt(debtor: Debtor) -> Snapshot | None:
    """A snapshot of ours that was taken after the server was stopped, and that the ledger does not know.

    Somebody has put an old copy of the ledger back, then: who knows whether the server is still off because of us. What
    cannot be read says nothing, and the start is not kept waiting for it.
    """
    since = debtor.power.held_off_since
    if since is None or not debtor.instance or not is_unaccounted_for(debtor.power, debtor.tools.now()):
        return None
    try:
        async with asyncio.timeout(LONGEST_LOOK):
            snapshots = await debtor.tools.inventory.snapshots(debtor.server_id, priority=Priority.START)
            known = await debtor.tools.ledger.starts.slots_of(debtor.server_id)
    except (CloudError, LedgerError, TimeoutError) as error:
        log.warning("whether the ledger is an old copy cannot be told: the server is started", error=str(error))
        return None
    return taken_since(since, snapshots, instance=debtor.instance, known=known)


async def _may_be_in_the_middle(debtor: Debtor) -> bool:
    """The ledger is on a server that cannot be reached, and a snapshot is in progress: another replica may be at work.

    For `start_timeout` at the most. What cannot be read keeps no start waiting.
    """
    if not debtor.is_cut_off or debtor.start_is_overdue or debtor.tools.ledger.replicas is None:
        return False
    try:
        async with asyncio.timeout(LONGEST_LOOK):
            snapshots = await debtor.tools.inventory.snapshots(debtor.server_id, priority=Priority.START, alone=True)
    except (CloudError, TimeoutError):
        return False
    return any(one.state is SnapshotState.IN_PROGRESS for one in snapshots)


async def found(debtor: Debtor) -> Server:
    """The server, by whichever of its ids the account has it now: one of them may have been retired since its stop.

    First by those that are no numbers: a number may be another server's by now, which is none of our business.
    Raises `NotFound` where the account has it by none of them.
    """
    doubt: CloudError | None = None
    missing: CloudError | None = None
    for one in sorted(debtor.ids, key=lambda its: (its.isdigit(), its)):
        try:
            server = await debtor.look_for(one)
        except (NotFound, Anothers) as error:
            missing = error
        except CloudError as error:
            doubt = error
        else:
            if is_one_server(debtor.ids, (*server.ids, *server.beside)):
                return server
            missing = NotFound(f"{one} is the id of another server now")
    raise doubt or NotFound(str(missing))


async def _as_listed(debtor: Debtor, error: CloudError) -> Server:
    """The server as a list shows it, where the provider refuses to show it alone, or has failed to for `start_timeout`.

    Raises `error` where it is none of that, or the list does not tell either.
    """
    if isinstance(error, CalledOff) or not (isinstance(error, HeldBack) or debtor.start_is_overdue):
        raise error
    try:
        listed = await debtor.tools.inventory.find(debtor.ids)
    except CloudError as another:
        raise error from another
    if listed is None:
        raise error
    return listed


async def _listed_or_gone(debtor: Debtor, error: NotFound) -> Server | Outcome:
    """A server is gone when the provider has said so for all of `start_timeout`, and a whole list is without it.

    Not so where another account may be the one that was asked: the token may be another one's now. As the list shows
    it, it is started.
    """
    debtor.update_power(power.missing)
    since = debtor.power.missing_for
    if since is None or since < debtor.start_timeout:
        return Waiting(f"the server that is to be started is not found: {error}")
    if not await _is_of_this_account(debtor):
        return Waiting(f"the server that is to be started is not found, and the token is another account's: {error}")
    if (listed := await debtor.tools.inventory.find(debtor.ids)) is not None:
        return listed
    debtor.update_power(power.gone)
    return Failed(f"the server that was to be started is gone: {error}")


async def _is_of_this_account(debtor: Debtor) -> bool:
    """The account that is asked now is the one in which the server was stopped."""
    if not debtor.power.whose:
        return debtor.tools.knows_its_account
    return (await debtor.tools.cloud.token_owner(priority=Priority.DOWNTIME)).email == debtor.power.whose


async def _ask_to_start(debtor: Debtor, server: Server) -> Outcome:
    if starts := debtor.power.starts:
        debtor.start_failed()
        log.error("the server has not started; asking again", status=server.status, attempt=starts + 1)
    await debtor.save_power_if_possible(power.start_promised)
    try:
        await debtor.tools.cloud.power(server, "start", guard=debtor.guard)
    except Temporary as error:
        if is_for_now(error) and not isinstance(error, Busy):
            debtor.update_power(power.start_put_off)
        raise
    return Waiting("the server has been asked to start")


def is_for_now(error: CloudError) -> bool:
    """It was not carried out, by the answer, and may be asked for again."""
    return isinstance(error, Temporary) and not isinstance(error, Unclear)
