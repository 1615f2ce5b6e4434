"""What is told wrongly to a history, and what other people do meanwhile: drawn beside the faults."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from hypothesis import strategies as st

from snaprotd.core.holds import FOREVER, RELEASED
from snaprotd.simulator import Fault
from tests.support.histories import Other, Word
from tests.support.lies import EMPTY, LISTS, NAMES, SERVER_AS_TEXT, SERVER_TWICE, VALUES, WORDS, Lie

HOUR, DAY = 3600.0, 86400.0
SETTLE = 120.0
ONE_LOOK = 29.0
"""Seconds: less than a poll."""
FOR_GOOD = 10 * DAY

_when = st.one_of(
    # Before the first process, in the first night, or in the next one three hours later.
    st.tuples(
        st.one_of(st.just(-1800.0), st.integers(-60, 900).map(float), st.integers(10700, 12000).map(float)),
        st.just(False),
    ),
    # When a snapshot of ours was just completed, and others are about to go for it.
    *2 * [st.tuples(st.sampled_from([0.0, 0.0, 20.0, 45.0]), st.just(True))],
)


def _lie(kinds: Iterable[str], lasts: Iterable[float], which: st.SearchStrategy[int | None]) -> st.SearchStrategy[Lie]:
    return st.builds(
        lambda kind, when, lasts, which: Lie(kind=kind, since=when[0], once_done=when[1], lasts=lasts, which=which),
        st.sampled_from(sorted(kinds)),
        _when,
        st.sampled_from(sorted(lasts)),
        which,
    )


_all = st.none()
_some = st.sampled_from([None, None, 0, 1, 2, 3, 4])

lies = st.one_of(
    _lie(NAMES, (ONE_LOOK, 300.0, FOR_GOOD), _all),
    # A moment is shorter than what failed for good has failed for.
    *2 * [_lie((*WORDS, "failed"), (1.0, ONE_LOOK, 240.0), _some), _lie(VALUES, (ONE_LOOK, HOUR, FOR_GOOD), _some)],
    _lie((*LISTS, SERVER_TWICE, SERVER_AS_TEXT), (ONE_LOOK, 300.0, HOUR), _all),
    # For longer than `settle`, and less long than a list that shows nothing is disbelieved.
    _lie((EMPTY,), (SETTLE - 40, SETTLE + 60, 840.0), _all),
)

others = st.builds(
    Other,
    at=st.one_of(
        st.integers(-1700, -1).map(float), st.integers(0, 900).map(float), st.integers(3000, 12000).map(float)
    ),
    # Our slots, a time that is none of them, one that is to come, and one from before the first process.
    named_for=st.sampled_from([0.0, 0.0, 3 * HOUR, DAY, 2220.0, -DAY]),
    instance=st.sampled_from(["main", "main", "main", "main2"]),
    status=st.sampled_from(["completed", "completed", "in_progress", "failed"]),
)

UNTIL = (date(2025, 1, 31), FOREVER, RELEASED)
"""Two that outlast every history, and none."""
words = st.builds(
    Word,
    # Before the first process, in a night's rotation, between two, and in the next one.
    at=st.one_of(*2 * [st.integers(-600, 900).map(float)], st.integers(900, 12000).map(float)),
    which=st.integers(0, 4),
    until=st.sampled_from(UNTIL),
)

AHEAD = (-2 * DAY, -HOUR, 400.0, 5 * HOUR)
"""Seconds by which the provider's clock is wrong."""
provider_clocks = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(st.sampled_from([-1800.0, 60.0, 7200.0]), st.sampled_from([1200.0, 6 * HOUR]), st.sampled_from(AHEAD)),
)
"""Since when, for how long, and by how much."""

WRONG_BY = (-30 * HOUR, -HOUR, -240.0, 240.0, HOUR, 30 * HOUR)
"""Seconds by which our own clock is wrong after a restart."""
our_clocks = st.one_of(
    st.just(()), st.just(()), st.lists(st.sampled_from([0.0, *WRONG_BY]), min_size=1, max_size=3).map(tuple)
)


def fair_clocks(clocks: tuple[float, ...], faults: Iterable[Fault]) -> tuple[float, ...]:
    """Without a day too many where a stop strikes hours late: by the only clock there is, it is long over by then."""
    is_late = any(fault.kind == "slow_power" and fault.delay > HOUR for fault in faults)
    return tuple(0.0 if is_late and ahead > HOUR else ahead for ahead in clocks)
