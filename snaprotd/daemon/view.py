"""What the web and systemd ask of a running daemon: how everything stands, and nothing that changes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from snaprotd.config.settings import Config, PerServer, Target
from snaprotd.config.web_file import WebFile, read_web_file
from snaprotd.core.errors import ConfigError, LedgerError, SnaprotdError
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry
from snaprotd.core.words import Json, count
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.ledger_watch import LedgerWatch
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.engine.board import Board
from snaprotd.engine.tools import Tools
from snaprotd.logs import redactor
from snaprotd.observe.metrics import Metrics
from snaprotd.report.happenings import OF_LEDGER
from snaprotd.report.rows import shown
from snaprotd.report.status import Situation, report_head, server_report, status_report
from snaprotd.web.keeping import Pages
from snaprotd.web.pages.selection import Entries
from snaprotd.wiring.assembly import account_of
from snaprotd.wiring.identity import own_key, proof_of

T = TypeVar("T")

REPORT_GOOD_FOR, SHARE = 1.0, 0.1
"""Seconds at the least, and of the loop's time at the most: a report on thousands of servers takes a while to make, and
every open page asks for one."""


@dataclass(kw_only=True)
class Standing:
    """How far a daemon is in its life."""

    silent_after: float
    """Seconds without a look at the wall clock after which it is not well."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """The configuration is in force, and its slots are taken up."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """It has been asked to end."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    loaded_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the configuration in force was read."""
    ticked_at: float | None = None
    """When the wall clock was last looked at, by the loop's clock; None before the first look."""
    refused: SnaprotdError | None = None
    """Why the configuration file as it now is was refused; None where it is the one in force."""

    def ailments(self) -> list[str]:
        """Why the loop or the scheduler is not well."""
        if self.ticked_at is None:
            return []
        silent = asyncio.get_running_loop().time() - self.ticked_at
        is_silent = silent > self.silent_after
        return [f"the scheduler has not looked at its clock for {silent:.0f} s"] if is_silent else []

    @property
    def mistakes(self) -> list[str]:
        """Why the file as it is now is refused. Cleaned: a secret may stand where it does not belong."""
        if isinstance(self.refused, ConfigError):
            lines = filter(None, (*map(str, self.refused.mistakes), self.refused.and_more))
            return [redactor.clean(line) for line in lines]
        return [] if self.refused is None else [redactor.clean(str(self.refused))]


LEDGER_NEWS_FOR = timedelta(days=1)
"""How long the page tells of what has befallen the ledger's files."""
EVENTS_SHOWN = 30
"""Of one server."""
LEDGER_WITHIN = 3.0
"""Seconds that a report waits for the ledger: whoever asks how things stand is answered, then above all."""


async def in_turns(work: Generator[None, None, T]) -> tuple[T, float]:
    """What the work comes to, between whose pieces others have their turn; and the seconds of the loop that it took."""
    time, took = asyncio.get_running_loop().time, 0.0
    while True:
        began = time()
        try:
            next(work)
        except StopIteration as done:
            return done.value, took + time() - began
        took += time() - began
        await asyncio.sleep(0)


class DaemonView:
    """One daemon, looked at: the `View` that the web pages need."""

    def __init__(
        self,
        config: Config,
        standing: Standing,
        tools: Tools,
        *,
        board: Board,
        metrics: Metrics,
        schedules: Schedules,
        account: AccountWatch,
        ledger_watch: LedgerWatch,
        given_up: Callable[[], Mapping[str, tuple[int, str]]],
        pages: Callable[[], Pages],
    ) -> None:
        self._given_up = given_up
        self.config = config
        self._standing = standing
        self._tools = tools
        self._board = board
        self._metrics = metrics
        self._schedules = schedules
        self._account = account
        self._ledger_watch = ledger_watch
        self._pages = pages
        self._web_file: WebFile | None = None
        self._ledger_news: Sequence[Entry] = ()
        self._owners: Mapping[str, str] = {}
        self._asked: asyncio.Task[list[Rotation]] | None = None
        """The ledger, about the rotations that are open."""
        self._report: Json | None = None
        self._reported_at = 0.0
        self._report_good_for = REPORT_GOOD_FOR
        self._reporting = asyncio.Lock()

    def apply(self, config: Config) -> None:
        self.config = config

    @property
    def url(self) -> str | None:
        """Where the pages are; None where they are nowhere now."""
        return self._pages().url

    def in_words(self) -> str:
        """How it stands, in one line for `systemctl status`."""
        running = self._board.running
        off = [label for _, label in self._board.held_off]
        is_ending = self._standing.stop.is_set()
        words = ["ending" if is_ending else count(len(self._schedules.targets), "server")]
        if running:
            words.append(f"{count(len(running), 'rotation')} running")
        if off:
            words.append(f"held off: {', '.join(off[:5])}{' and more' if len(off) > 5 else ''}")
        next_run = min((one.next_run for one in self._board.servers.values() if one.next_run), default=None)
        if next_run is not None and not is_ending:
            words.append(f"next at {next_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
        if self._standing.refused is not None:
            words.append("the configuration file is refused as it is now")
        return ", ".join(words)

    # -- what the probes ask -----------------------------------------------------------------------------------

    def exposition(self) -> Iterator[bytes]:
        in_trouble = self.config.metrics.per_server is PerServer.PROBLEMS
        return self._metrics.exposition(self._tools.now() if in_trouble else None)

    def ailments(self) -> Sequence[str]:
        return self._standing.ailments()

    def unready(self) -> Sequence[str]:
        missing = []
        if not self._standing.started.is_set():
            missing.append("the configuration is not in force yet")
        if not self._account.has_answered:
            missing.append("the provider's API has not been reached yet")
        if self._ledger_watch.error is not None:
            missing.append(redactor.clean(self._ledger_watch.error))
        return missing

    def remarks(self) -> Sequence[str]:
        mistakes = self._standing.mistakes
        return ["the new configuration is refused, the old one is in force:", *mistakes] if mistakes else []

    def identity(self, config: str, challenge: str) -> Json | None:
        """Which ledger we have, with a proof, for a command that goes by our very file; None for anybody else."""
        if not config.isprintable() or os.path.realpath(config) != os.path.realpath(self.config.path):
            return None
        ledger = os.path.abspath(self.config.ledger)
        key = own_key(Path(ledger))
        return {"ledger": ledger, "proof": proof_of(key, ledger, challenge)} if key else None

    def read_web_file(self, path: Path) -> WebFile:
        """The file of `web_config` as it is now, for whoever serves the pages; what is remarked on it is shown there.

        Raises `ConfigError` where it has mistakes.
        """
        self._web_file = read_web_file(path)
        return self._web_file

    # -- what the pages show -----------------------------------------------------------------------------------

    def head(self) -> Json:
        return report_head(self._situation((), (), None))

    async def status(self) -> Json:
        """Made once for all who ask meanwhile."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._reporting:
            if self._report is None or asked_at - self._reported_at >= self._report_good_for:
                self._report, self._reported_at = None, asked_at  # of a fleet, two at a time are a lot
                self._report, took = await self._made()
                self._report_good_for = max(REPORT_GOOD_FOR, took / SHARE)
                loop.call_later(self._report_good_for, self._forget, self._report)
            return self._report

    def _forget(self, report: Json) -> None:
        if self._report is report:
            self._report = None

    async def _made(self) -> tuple[Json, float]:
        """The report, and the seconds of the loop that it took."""
        running, ledger_error = await self._open_rotations()
        situation = self._situation(tuple(self._schedules.targets.values()), running, ledger_error)
        return await in_turns(status_report(situation, Entries()))

    async def server_status(self, name: str) -> Json | None:
        targets = self._schedules.targets
        target = targets.get(name) or next((one for one in targets.values() if one.label == name), None)
        if target is None:
            return None
        history = await self._tools.ledger.history(target.server_id)
        kept = await self._tools.ledger.starts.kept(account_of(self.config), target.server_id)
        running, ledger_error = await self._open_rotations()
        situation = self._situation((target,), running, ledger_error)
        ids = self._tools.inventory.ids_of(target.server_id)
        events = await self._tools.ledger.events.newest(server_ids=ids, limit=EVENTS_SHOWN)
        report: Json = shown(server_report(situation, target, history, events, kept.let_go if kept else ""))
        return report

    async def events(self, after: int, limit: int) -> tuple[Sequence[Json], int]:
        while True:
            entries, last = await self._tools.ledger.events.after(after, limit=limit)
            if entries or last <= after:
                return [shown(entry.as_json()) for entry in entries], last
            after = last  # none of so many can be read, as of a newer snaprotd: whoever reads on is to come past them

    async def _open_rotations(self) -> tuple[Sequence[Rotation], str | None]:
        """Those that this process runs, and those of others: a `now` beside the daemon is a rotation too."""
        ours = dict(self._board.running)
        if self._asked is None:
            self._asked = asyncio.create_task(self._read_ledger())
            self._asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        asked = self._asked
        await asyncio.wait({asked}, timeout=LEDGER_WITHIN)
        if not asked.done():  # it is not asked again: it is waited for
            silent = f"the ledger {self._tools.ledger.name} does not answer"
            return tuple(ours.values()), self._ledger_watch.error or silent
        if self._asked is asked:
            self._asked = None
        try:
            found = {one.id: one for one in asked.result()}
        except LedgerError as error:
            return tuple(ours.values()), str(error)
        return tuple(one for one in (found | ours).values() if not one.is_finished), self._ledger_watch.error

    async def _read_ledger(self) -> list[Rotation]:
        """The rotations that are open and not ours, and what is new of the ledger itself."""
        since = self._tools.now() - LEDGER_NEWS_FOR
        found = await self._tools.ledger.open_rotations(but=dict(self._board.running))
        self._owners = await self._tools.ledger.owners() if self._tools.ledger.replicas is not None else {}
        self._ledger_news = await self._tools.ledger.events.newest(kinds=OF_LEDGER, since=since, limit=EVENTS_SHOWN)
        return self._board.show_elsewhere(found)

    def _situation(self, targets: Sequence[Target], running: Sequence[Rotation], ledger_error: str | None) -> Situation:
        account, called = account_of(self.config), self._board.called
        pages = self._pages()
        debts = [replace(one, server_id=called(one.server_id)) for one in self._board.debts.values()]
        return Situation(
            config=self.config,
            web_file=self._web_file,
            now=self._tools.now(),
            started_at=self._standing.started_at,
            targets=targets,
            facts=self._board.servers,
            servers=self._tools.inventory.seen_servers,
            machine=self._tools.machine(),
            assess=self._account.assessment,
            running=[replace(one, server_id=called(one.server_id)) for one in running],
            debts={one.server_id: one for one in debts if one.account == account},
            foreign_debts=[one for one in self._board.debts.values() if one.account != account],
            set_aside={called(one): why for one, why in self._tools.ledger.set_aside.items()},
            dropped=self._account.dropped,
            ledger_error=ledger_error,
            ledger_news=list(reversed(self._ledger_news)),
            clock_ahead=self._tools.inventory.clock_ahead(),
            rate=self._tools.cloud.rate,
            inventory_listed_at=self._tools.inventory.last_success,
            account_error=self._account.error,
            in_doubt=self._account.in_doubt,
            config_loaded_at=self._standing.loaded_at,
            ledger_path=self._tools.ledger.name,
            fleet=self._board.fleet,
            owners=self._owners,
            is_ending=self._standing.stop.is_set(),
            config_mistakes=self._standing.mistakes,
            given_up=self._given_up(),
            web_refused=redactor.clean(str(pages.refused or "").partition("\n")[0]),
            certificate=pages.certificate,
        )
