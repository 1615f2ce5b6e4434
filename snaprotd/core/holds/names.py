"""The names that a daemon gives. The provider knows no labels: the slot, whose it is and its hold stand in the name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

from snaprotd.core.model import SLOT_FORMAT, Snapshot

OUR_NAMES = "snaprotd-"
"""What the name of each snapshot begins with that a daemon has taken."""

FOREVER = date.max
"""The last day of a hold that has none."""

SURELY_SHORT = 50
"""Characters of a name that a provider is taken to allow: nothing is published of that."""

_IDENTITY = OUR_NAMES + r"([a-z0-9_]{1,32})-([0-9]{8}T[0-9]{6}Z)"
_NAME = re.compile(_IDENTITY + r"(?:-until-([0-9]{8})|-(held))?")
_WITH_ANY_HOLD = re.compile(_IDENTITY + r"(-(?:(?:until|held).*|u|un|unt|unti|h|he|hel)?)?", re.DOTALL)
"""A provider may have cut what is said of a hold anywhere."""
_SLOT = re.compile(r"(?<=-)[0-9]{8}t[0-9]{6}z(?![0-9a-z])")


def snapshot_name(instance: str, slot: datetime, hold: date | None = None) -> str:
    """The name of the one snapshot of `slot`, e.g. `snaprotd-main-20250116T033000Z`.

    One that is to be held until the end of a day in UTC has that day behind it, which is no part of what it is:
    `-until-20250122`, or `-held`.
    """
    name = f"{OUR_NAMES}{instance}-{slot.astimezone(UTC):{SLOT_FORMAT}}"
    if hold is None:
        return name
    return f"{name}-held" if hold == FOREVER else f"{name}-until-{hold:%Y%m%d}"


@dataclass(frozen=True)
class NameRead:
    """What a name says that a daemon has given."""

    instance: str
    slot: datetime
    hold: date | None = None
    """The last day, in UTC, for which it says that the snapshot is held; None where it says nothing of that."""

    def is_of_the_slot_of(self, other: NameRead) -> bool:
        """Whether both name the one snapshot of one slot."""
        return (self.instance, self.slot) == (other.instance, other.slot)


@lru_cache(maxsize=4096)
def _as_written(name: str) -> NameRead | None:
    """What the name says; None where no daemon has given it."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        slot = _slot_read(match[2])
        until = date.fromisoformat(match[3]) if match[3] else None
    except ValueError:
        return None
    return NameRead(match[1], slot, FOREVER if match[4] else until)


def _slot_read(text: str) -> datetime:
    """As `SLOT_FORMAT` has it: digits only, which are read in a tenth of the time."""
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in (4, 6, 9, 11, 13))
    return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=UTC)


def name_read(name: str) -> NameRead | None:
    """What the name says, also where the provider has changed its case or put blanks around it."""
    return _as_written(_restored(name))


def maker_of(name: str) -> str | None:
    """The instance that has given the name, also where what is said of a hold in it makes no sense; None for others."""
    made = identity_in(name)
    return made.instance if made else None


@lru_cache(maxsize=4096)
def identity_in(name: str) -> NameRead | None:
    """Whose it is and of which slot, whatever the name says of a hold; None where no daemon has given it."""
    match = _WITH_ANY_HOLD.fullmatch(_restored(name))
    return _as_written(match[0][: match.start(3)] if match[3] else match[0]) if match else None


def hold_named(name: str) -> date | None:
    """The last day for which the name says that it is held; for ever where what it says of that makes no sense."""
    made = name_read(name)
    if made is not None:
        return made.hold
    return None if maker_of(name) is None else FOREVER


def bears_our_name(name: str, instance: str) -> bool:
    """Whether this instance names so, to the letter, what it takes."""
    made = _as_written(name)
    return made is not None and made.instance == instance


def is_alike(name: str, instance: str) -> bool:
    """Whether it is a name that this instance gives but for its letters' case, or blanks around it."""
    made = name_read(name)
    return made is not None and made.instance == instance and not bears_our_name(name, instance)


def is_named(snapshot: Snapshot, name: str) -> bool:
    """Whether it bears this name, as the provider may write it, whatever either says of a hold."""
    made, other = identity_in(snapshot.name), identity_in(name)
    if made is None or other is None:
        return _restored(snapshot.name) == _restored(name)
    return made.is_of_the_slot_of(other)


def says_so_itself(pattern: str) -> bool:
    """Whether a pattern is meant for names that daemons give: `*` was written for those that people give."""
    return pattern.startswith(OUR_NAMES)


def length_in_doubt(name: str) -> str:
    """What is to be added to a refusal that may be for the name's length; empty where that is unlikely."""
    made = name_read(name)
    if len(name) <= SURELY_SHORT and (made is None or made.hold is None):
        return ""
    without = " or `--hold none`" if made is not None and made.hold is not None else ""
    return f"; perhaps for its name, which has {len(name)} characters: a shorter `instance`{without} makes it shorter"


def longest_name(instance: str, *, held: bool) -> int:
    """The most characters that a name of this instance has, of what is `held` for some time or of what is not."""
    return len(snapshot_name(instance, datetime(2025, 1, 1, tzinfo=UTC), date(2025, 1, 1) if held else None))


@lru_cache(maxsize=4096)
def _restored(name: str) -> str:
    return _SLOT.sub(lambda slot: slot[0].upper(), name.strip().lower(), count=1)
