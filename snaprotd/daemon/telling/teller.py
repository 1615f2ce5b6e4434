"""Tells people what happens: it looks at what the daemon knows, and hands on what has changed.

Nothing waits for it: it is told of the end of a rotation, and looks at everything else by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog

from snaprotd.config.mistakes import MOST_SHOWN
from snaprotd.config.settings import Config, Target
from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.telling import Event, Kind
from snaprotd.core.telling.entries import Entry, Happened, how_let_go, of_end
from snaprotd.core.telling.troubles import Told, Trouble
from snaprotd.core.words import count
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.fleet.membership import Membership
from snaprotd.daemon.ledger_watch import LedgerWatch
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.daemon.telling.alarms import Alarms
from snaprotd.daemon.telling.heartbeat import Heartbeat
from snaprotd.daemon.telling.lost import LostReplicas
from snaprotd.daemon.telling.office import Office
from snaprotd.daemon.view import Standing
from snaprotd.engine.board import Board
from snaprotd.ledger.store import Ledger
from snaprotd.observe.delivery import Delivery
from snaprotd.observe.metrics import NotificationMetrics
from snaprotd.observe.notify import Notify
from snaprotd.observe.outbox import Outbox
from snaprotd.report.happenings import IMPLIED, LISTED, LOST_SLOTS, SPARE, of_entry, of_servers_off, of_whole
from snaprotd.report.problems import ids_in
from snaprotd.web.keeping import Pages
from snaprotd.wiring.assembly import account_of
from snaprotd.wiring.channels import open_channels, same_channels

log = structlog.get_logger("snaprotd.notify")

AT_ONCE = 500
"""Entries of the ledger that are read in one go."""
PAUSED = "its policy is paused, and nothing more is told of it; what was told is"


class Teller:
    """One daemon's."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        board: Board,
        schedules: Schedules,
        account: AccountWatch,
        ledger_watch: LedgerWatch,
        standing: Standing,
        ledger: Ledger,
        metrics: NotificationMetrics,
        now: Callable[[], datetime],
        pages: Callable[[], Pages],
        membership: Membership,
    ) -> None:
        self._config = config
        self._environ = environ
        self._board = board
        self._schedules = schedules
        self._account = account
        self._ledger_watch = ledger_watch
        self._standing = standing
        self._metrics = metrics
        self._now = now
        self._ledger = ledger
        self._office = Office(membership, ledger)
        membership.says.append(self._office.says)
        self._url = lambda: pages().url or ""
        self._open_desk()
        self._alarms = Alarms(
            schedules=schedules,
            account=account,
            pages=pages,
            set_aside=lambda: {board.called(one): why for one, why in ledger.set_aside.items()},
            now=now,
        )
        self._lost_replicas = LostReplicas(board, ledger, now)
        self._targets: Mapping[str, Target] = {}
        self._left: Set[str] = frozenset()
        """Servers with a failure or an alarm that are not looked after any more, for certain."""
        self._lost_slots: Mapping[str, str] = {}
        """Those that the page shows, in words, by the server's id."""
        self._channels = open_channels(config, environ)
        self._is_dumb = False
        self.heartbeat = Heartbeat(metrics, is_mine=lambda: self._office.is_mine, ailments=self._ailments)

    def _open_desk(self, told: Told | None = None) -> None:
        """Nothing is known yet but `told`, and nothing waits."""
        desk, office, held = self._ledger.desk, self._office, self._office.is_held
        self._outbox = Outbox(desk)
        self._delivery = Delivery(self._outbox, self._metrics, self._now, lambda: office.is_mine or not held)
        self._notify = Notify(self._delivery, self._outbox, desk, self._now, self._url, told=told or Told())
        self._has_gone_on = False

    def begin(self) -> None:
        """From now on."""
        self._channels = open_channels(self._config, self._environ)
        self._notify.begin(self._channels.told)
        self._targets = {}
        settings = self._config.heartbeat
        self.heartbeat.begin(self._channels.heartbeat, settings.every if settings else 0.0)

    def apply(self, config: Config) -> None:
        """Tell those whom another configuration names."""
        is_same, self._config = same_channels(self._config, config), config
        if not is_same:
            self.begin()

    @property
    def given_up(self) -> Mapping[str, tuple[int, str]]:
        """For each channel how many messages were given up since the last that was sent, and why the last one."""
        lost = self.heartbeat.lost
        return self._delivery.given_up if lost is None else {**self._delivery.given_up, "heartbeat": lost}

    def reloaded(self, servers: int) -> None:
        """Another configuration is in force."""
        text = f"the configuration was read again and is in force, for {count(servers, 'server')}"
        self._enter(Entry(at=self._now(), kind=Happened.RELOAD, text=text, details={"servers": servers}))

    def _enter(self, entry: Entry) -> None:
        """Have it written down, whoever tells."""
        (self._notify if self._office.is_held else self._office).enter(entry)

    def refused(self, mistakes: Sequence[str]) -> None:
        """The configuration file as it now is was refused."""
        text = f"the configuration file is refused: {mistakes[0] if mistakes else 'it cannot be read'}"
        details = {"mistakes": list(mistakes[:MOST_SHOWN])}
        self._enter(Entry(at=self._now(), kind=Happened.RELOAD_REFUSED, text=text, details=details))

    async def look(self) -> None:
        """What has changed, and what is to be sent by now. As long as that fails no heartbeat is sent."""
        try:
            await self._look_and_post()
        except Exception:
            self._is_dumb = True
            raise
        self._is_dumb = False

    async def _look_and_post(self) -> None:
        if self._office.look():
            await self._change_desk()
        await self._office.write_down()
        if self._schedules.targets is not self._targets:
            self._look_after(self._schedules.targets)
        if not self._office.is_held:
            await self._tell_alone()
            return
        try:
            await self._go_on()
            await self._lost_replicas.look(self._enter)
            await self._read_on()
        except LedgerError as error:
            log.debug("what has happened is read later", error=str(error))  # told by who watches it
        self._set_apart()
        self._show_lost_slots()
        await self._alarms.look(self._config)
        await self._look_at_power()
        self._look()
        await self._notify.post_due()

    async def _change_desk(self) -> None:
        """What was told goes on with who holds the office. With who does not goes on that it has no ledger.

        Letters that the ledger does not have are sent from here.
        """
        told, unkept, before = self._notify.of_ledger(), self._outbox.unkept, self._delivery
        await before.aclose()
        self._open_desk(told)
        self._delivery.given_up = before.given_up
        self._notify.begin(self._channels.told)
        self._delivery.post(unkept, are_kept=False)
        self._targets = {}

    async def _tell_alone(self) -> None:
        """Another replica tells, also what this one sees. Where this one has no ledger, it cannot hear of it."""
        is_cut_off = self._ledger_watch.error is not None
        own = self._whole() if self._account.was_asked or is_cut_off else []
        own += self._alarms.of_pages()[1]
        self._office.have_told(own)
        self._notify.show(Kind.FAILURE, [one for one in own if not one.about] if is_cut_off else [])
        self._notify.show(Kind.HELD_OFF, self._servers_off() if is_cut_off else [])
        await self._notify.post_due()

    async def aclose(self) -> None:
        """Tell no more. What was not read yet is told by the next process."""
        await self._delivery.aclose()

    async def _go_on(self) -> None:
        """Where the process before this one has come to. Where none was, what is older than the events is known."""
        if self._has_gone_on:
            return
        kept = await self._ledger.desk.read()
        if kept is not None:
            self._notify.go_on(kept.told, kept.cursor, kept.letters)
        else:
            self._notify.begin_anew()
            entries, _ = await self._ledger.events.after(0, limit=AT_ONCE)
            told = {entry.details.get("rotation") for entry in entries}
            for target in self._targets.values():
                latest = self._board.of(target.server_id).latest
                if latest is not None and latest.id not in told:
                    self._tell_of_old(latest)
        self._has_gone_on = True

    def _tell_of_old(self, latest: Rotation) -> None:
        """It ended before there were events: nobody can have been told."""
        event = None if latest.result is Result.SUCCESS else of_entry(of_end(latest))
        if event is not None:
            self._notify.tell(event)

    async def _read_on(self) -> None:
        """Tell what the ledger has of new events, whoever wrote them."""
        while True:
            entries, last = await self._ledger.events.after(self._notify.cursor, limit=AT_ONCE)
            if last < self._notify.cursor:  # the ledger was lost, or put back as it was once
                kept = await self._ledger.desk.read()
                self._notify.cursor = kept.cursor if kept is not None and kept.cursor <= last else 0
                continue
            for entry in entries:
                entry = replace(entry, server_id=entry.server_id and self._board.called(entry.server_id))
                event = of_entry(entry, account_failure=self._account.failure, ids=self._ids_in)
                if event is not None:
                    self._notify.tell(event)
            if last == self._notify.cursor:
                return
            self._notify.cursor = last

    def _ids_in(self, server_id: str) -> Mapping[str, str]:
        """The snapshots that could give way on a full server."""
        target = self._targets.get(server_id)
        return {} if target is None else ids_in(self._account.assessment(target), self._now())

    async def _look_at_power(self) -> None:
        there = self._servers_off()
        off = {event.server.id for event in there if event.server}
        over = {one: its for one, its in self._notify.of_kind(Kind.HELD_OFF).items() if one not in off}
        self._notify.show(Kind.HELD_OFF, there, ends=await self._ends_of(over) if over else {})

    async def _ends_of(self, over: Mapping[str, Trouble]) -> Mapping[str, str]:
        """How those are over that do not run again, as far as that is known: let go of by somebody, or gone."""
        there = {one.id for one in self._account.servers()}
        ends = {
            one: f"the account has no such server any more; what was told of it is: {its.event.text}"
            for one, its in over.items()
            if self._account.is_listed and one not in there
        }
        with suppress(LedgerError):
            since = min(its.since for its in over.values())
            entries = await self._ledger.events.newest(kinds=[Happened.LEAVE_OFF], since=since, limit=AT_ONCE)
            for entry in reversed(entries):
                server_id = self._board.called(entry.server_id or "")
                if server_id in over and entry.at >= over[server_id].since:
                    ends[server_id] = how_let_go(entry)
        return ends

    def _look(self) -> None:
        if not self._account.was_asked:
            return  # what the process before this one has told of it is not over
        self._notify.show(Kind.FAILURE, [one for one in self._office.all_of(self._whole()) if not one.about])
        self._look_at_alarms()

    def _whole(self) -> list[Event]:
        """What is wrong with no one server, as this process sees it."""
        return of_whole(
            self._now(),
            config_mistakes=self._standing.mistakes,
            ledger_error=self._ledger_watch.error,
            account_failure=self._account.failure,
            clock_ahead=self._account.clock_ahead(),
        )

    def _look_at_alarms(self) -> None:
        """What the page shows as an alarm, and no event tells of."""
        self._notify.tell_new(self._alarms.of_rotations())
        about_pages, of_pages = self._alarms.of_pages()
        of_pages = [one for one in self._office.all_of(of_pages) if one.about in about_pages]
        self._notify.show(Kind.FAILURE, of_pages, about=about_pages)
        if (there := self._alarms.of_servers) is not None:
            news = [one for one in there if one.about not in IMPLIED or not self._notify.is_implied(one)]
            looked_at, paused = self._targets.keys() | self._left, self._paused(self._targets.keys())
            for about in LISTED:
                of = looked_at - self._alarms.ageless if about == "too_old" else looked_at
                stands = self._notify.about(about) if about == "too_old" else {}
                ends = {one: f"{PAUSED}: {text}" for one, text in stands.items() if one in paused}
                these = [one for one in news if one.about == about]
                self._notify.show(Kind.FAILURE, these, about={about}, of=of, ends=ends)

    def _servers_off(self) -> list[Event]:
        """Whoever sees to them: a rotation of another process holds a server off as one of ours does."""
        open_ones = self._board.elsewhere | self._board.running
        debts = list(self._board.debts.values())
        return of_servers_off(open_ones.values(), debts, self._now(), account=account_of(self._config))

    def _look_after(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets
        members = {
            name: {one.server_id for one in targets.values() if one.entry.ping == ping}
            for name, ping in self._channels.members.items()
        }
        self._notify.look_after(members)

    def _set_apart(self) -> None:
        """Whose success nobody can wait for. What is taken out of the file may be put back in a moment."""
        self._notify.rename(self._board.called)
        failing, at_work = self._notify.failing, self._targets.keys()
        patience = self._config.discover_interval + SPARE.total_seconds()
        self._left = self._account.left(failing - at_work, patience=patience)
        paused, dropped = self._paused(failing & at_work), self._account.dropped.keys()
        self._notify.set_apart(paused=paused, left=self._left, at_work=at_work, dropped=dropped)

    def _paused(self, at_work: Set[str]) -> Set[str]:
        return {one for one in at_work if self._targets[one].policy.paused}

    def _show_lost_slots(self) -> None:
        """What is told of them stands on the page until the same success ends it."""
        lost = self._notify.about(LOST_SLOTS)
        for one in self._lost_slots.keys() | lost.keys():
            self._board.of(one).slots_lost = lost.get(one, "")
        self._lost_slots = lost

    def _ailments(self) -> list[str]:
        """Why it is not well: its loop, its ledger, or a start is stuck."""
        ledger = [] if self._ledger_watch.error is None else [self._ledger_watch.error]
        dumb = ["nobody can be told of anything"] if self._is_dumb else []
        return [*self._standing.ailments(), *ledger, *dumb, *(event.text for event in self._servers_off())]
