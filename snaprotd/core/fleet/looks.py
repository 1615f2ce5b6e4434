"""What one replica knows of all of them, from one look at their rows to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from snaprotd.core.fleet import FORGOTTEN_AFTER, JOINS_WITHIN, LIVES_FOR, LOST_AFTER, ROLES, Replica, Sighting
from snaprotd.core.fleet.shares import portion, preferred, rate_of


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All replicas, as one of them has seen them last. Times are seconds of its own uptime."""

    me: Replica
    """As the row is written by this look."""
    others: Mapping[str, Sighting] = field(default_factory=dict)
    """By their ids."""
    living: tuple[Replica, ...]
    """In the order of their ids; the one that looks among them."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Who has each role."""
    newest: int = 0
    """The highest generation that there ever was."""
    looked_at: float = 0.0
    came_at: float = 0.0
    awaited: Mapping[str, int] = field(default_factory=dict)
    """The beats, as they were when this one came, of those that have not beaten since: they may not know of it."""

    @classmethod
    def alone(cls, me: Replica) -> Fleet:
        """Where no other replica can be: it has every role."""
        return cls(me=me, living=(me,), roles=dict.fromkeys(ROLES, me.id))

    @property
    def has_joined(self) -> bool:
        """All that live know of it: it may use its part."""
        return not self.awaited

    @property
    def leading(self) -> int:
        """The newest generation among those that live."""
        return max(one.generation for one in self.living)

    @property
    def may_claim(self) -> bool:
        """Nobody that lives has a newer configuration."""
        return self.me.generation >= self.leading

    @property
    def stands_back(self) -> bool:
        """The provider does not answer it, and does answer another one that lives: what it holds is for that one."""
        return not self.me.is_answered and any(one.is_answered for one in self.living)

    @property
    def is_another_on_time(self) -> bool:
        return any(one.is_on_time and one.id != self.me.id for one in self.living)

    def why_none(self, one: Replica) -> str:
        """Why that one begins no rotations, in words; empty where it may."""
        if one.generation < self.leading:
            return "its configuration is older"
        if one.id in self._leaders:
            return ""
        return "its clock is wrong" if one.is_answered else "the provider does not answer it"

    @property
    def is_of_one_mind(self) -> bool:
        """All that live have the same configuration."""
        return len({one.config for one in self.living}) == 1

    def has(self, role: str) -> bool:
        return self.roles.get(role) == self.me.id

    def portion(self, number: int) -> int:
        """How many rotations are this one's, of so many: none where others are to begin them."""
        return portion(number, self.me.id, self._leaders) if self.me.id in self._leaders else 0

    def rate_of(self, rate: float) -> float:
        """How many requests a second are this one's, of so many; none before all that live know of it."""
        return rate_of(rate, self.me.id, [one.id for one in self.living]) if self.has_joined else 0.0

    def prefers(self, server_id: str, number: int) -> bool:
        """Whether this one is to begin that server's rotations, where all together run so `number` of them.

        Who may claim none, or has no portion, is nobody's.
        """
        able = [one for one in self._leaders if portion(number, one, self._leaders)]
        return preferred(server_id, able or self._leaders) == self.me.id

    @property
    def _leaders(self) -> list[str]:
        """Who is to begin rotations: of those with the newest configuration whom the provider answers, if any.

        Of these such with the right time, if any: others would begin what is due at another time.
        """
        newest = [one for one in self.living if one.generation == self.leading]
        answered = [one for one in newest if one.is_answered] or newest
        return [one.id for one in answered if one.is_on_time] or [one.id for one in answered]

    @property
    def forgotten(self) -> list[Replica]:
        """Those whose rows have stood still for so long that they are to be deleted."""
        now = self.looked_at
        return [one.replica for one in self.others.values() if now - one.since >= FORGOTTEN_AFTER]

    @property
    def lost(self) -> list[Replica]:
        """Those that stand still, did not end in order, and in whose place none has come, as they went.

        One that was never seen to beat went before this one came, which may have come in its place.
        """
        gone = [one for one in self.others.values() if one.first < one.since <= self.looked_at - LOST_AFTER]
        alive = {one.id for one in self.living}
        came = sorted(one.first for one in self.others.values() if one.replica.id in alive)
        found = []
        for one in sorted(gone, key=lambda one: one.since):
            came = [first for first in came if first > one.since]
            if came:
                came.pop(0)
            else:
                found.append(one.replica)
        return found


def looked(
    before: Fleet | None,
    me: Replica,
    rows: Iterable[Replica],
    roles: Mapping[str, str],
    *,
    newest: int,
    now: float,
) -> Fleet:
    """What is known after a look at all `rows`, and what is written with it.

    `me` is the one that looks; its beat and its generation are found here. `newest`: the highest generation that was
    noted. Who has just come counts all as living until they have stood still before its own eyes.
    """
    others = _sighted({} if before is None else before.others, [one for one in rows if one.id != me.id], now)
    alive = [one.replica for one in others.values() if now - one.since < LIVES_FOR]
    newest = max([newest, *(one.replica.generation for one in others.values())])
    generation = _generation(before, me, alive, newest)
    mine = replace(me, beat=1 if before is None else before.me.beat + 1, generation=generation)
    if before is not None and (now - before.looked_at >= LIVES_FOR or (me.is_answered and not before.me.is_answered)):
        before = replace(before, came_at=now, awaited={one.id: one.beat for one in alive})  # its part was dealt out
    came_at = now if before is None else before.came_at
    return Fleet(
        me=mine,
        others=others,
        living=tuple(sorted([*alive, mine], key=lambda one: one.id)),
        roles={role: _holder(roles.get(role, ""), mine, alive) for role in ROLES},
        newest=max(newest, generation),
        came_at=came_at,
        awaited=_awaited(before, alive, now - came_at),
        looked_at=now,
    )


def _sighted(before: Mapping[str, Sighting], rows: Sequence[Replica], now: float) -> dict[str, Sighting]:
    """Who stands still is seen since it was first seen so."""
    found = {}
    for row in rows:
        known = before.get(row.id)
        stands = known is not None and known.replica.beat == row.beat
        first, since = (now, now) if known is None else (known.first, known.since if stands else now)
        found[row.id] = Sighting(replica=row, since=since, first=first)
    return found


def _generation(before: Fleet | None, me: Replica, alive: Sequence[Replica], newest: int) -> int:
    """That of the newest that lives where its configuration is the same; else one that is in force keeps its own."""
    mine = [] if before is None else [before.me]
    leader = max([*mine, *alive], key=lambda one: one.generation, default=None)
    if leader is not None and leader.config == me.config:
        return leader.generation
    if before is not None and before.me.config == me.config:
        return before.me.generation
    return newest + 1


def _holder(holder: str, mine: Replica, alive: Sequence[Replica]) -> str:
    """Who has a role keeps it as long as it lives; else whoever looks first has it."""
    return holder if any(one.id == holder for one in alive) else mine.id


def _awaited(before: Fleet | None, alive: Sequence[Replica], since: float) -> Mapping[str, int]:
    """Who beats has seen all rows in the same transaction."""
    if before is None:
        return MappingProxyType({one.id: one.beat for one in alive})
    if since >= JOINS_WITHIN:
        return MappingProxyType({})
    left = {one.id: one.beat for one in alive}
    return MappingProxyType({id_: beat for id_, beat in before.awaited.items() if left.get(id_) == beat})
