"""Alarms of the page that no event tells of: looked at for those who are to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import datetime

from snaprotd.config.settings import Config, Target
from snaprotd.core.model import Machine
from snaprotd.core.telling import Event, Who
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.report.assessment import Assessment
from snaprotd.report.happenings import LISTED, of_alarm
from snaprotd.report.kinds import Problem
from snaprotd.report.problems import ServerSituation, of_pages, of_server
from snaprotd.web.keeping import Pages

LOOK_EVERY = 55.0
"""Seconds between two looks at all servers: no list of the account is newer for long."""
AT_ONCE = 10
"""Servers that are looked at before others have a turn."""


class Alarms:
    """Of one daemon."""

    def __init__(
        self,
        *,
        schedules: Schedules,
        account: AccountWatch,
        pages: Callable[[], Pages],
        set_aside: Callable[[], Mapping[str, str]],
        now: Callable[[], datetime],
    ) -> None:
        self._schedules = schedules
        self._account = account
        self._pages = pages
        self._set_aside = set_aside
        self._now = now
        self._looked_at: float | None = None
        self._told_aside: set[str] = set()
        self.of_servers: list[Event] | None = None
        """What a whole list of the account shows; None before the first, and while there is none to go by."""
        self.ageless: Set[str] = frozenset()
        """The servers with no completed snapshot of ours, as far as is known: what was too old is not over by that."""

    async def look(self, config: Config) -> None:
        """See what of it is there now."""
        if not self._account.is_listed:
            self.of_servers, self._looked_at = None, None
            return
        moment = asyncio.get_running_loop().time()
        if self._looked_at is not None and moment - self._looked_at < LOOK_EVERY:
            return
        found, ageless = list[Event](), set[str]()
        for number, target in enumerate(list(self._schedules.targets.values())):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            assessment = self._account.assessment(target)
            found += self._of(config, target, assessment)
            if not target.policy.paused and (assessment is None or assessment.newest is None):
                ageless.add(target.server_id)
        self.of_servers, self.ageless, self._looked_at = found, ageless, moment

    def _of(self, config: Config, target: Target, assessment: Assessment | None) -> Iterator[Event]:
        facts, now = self._schedules.facts(target), self._now()
        situation = ServerSituation(
            now=now,
            target=target,
            server=None,
            machine=Machine(),
            missing=bool(facts.missing),
            in_doubt=self._account.in_doubt.get(target.server_id),
            running=None,
            latest=None,
            expected_interval=facts.expected_interval,
            assessment=assessment,
        )
        who = Who(id=target.server_id, name=target.label)
        for problem in of_server(situation):
            if problem.kind in LISTED:
                yield of_alarm(problem, who, now, every=config.discover_interval)

    def of_pages(self) -> tuple[Set[str], list[Event]]:
        """What was looked for, and what of it is wrong. While they are nowhere nobody has looked at a certificate."""
        now, pages = self._now(), self._pages()
        away = "" if pages.why_away is None else str(pages.why_away)
        about = {"pages_away"} if away else {"pages_away", "certificate_bad"}
        found = of_pages("", pages.certificate, now, away=away)
        return about, [of_alarm(one, None, now) for one in found if one.kind in about]

    def of_rotations(self) -> list[Event]:
        """Those that were set aside, each once: the next success ends it."""
        now, found = self._now(), []
        names = {one.server_id: one.label for one in self._schedules.targets.values()}
        new = {one: why for one, why in self._set_aside().items() if why not in self._told_aside}
        self._told_aside.update(new.values())
        for server_id, why in new.items():
            who = Who(id=server_id, name=names.get(server_id, server_id))
            problem = Problem("set_aside", {"server": who.name, "why_it_was_set_aside": why})
            found.append(of_alarm(problem, who, now, rotation=f"set aside {server_id}"))
        return found
