"""The faults of the provider, and of what lies on the way to it, that a history may be drawn to have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from snaprotd.simulator import Fault

FAR_BEHIND = 900.0
"""Seconds."""
LONG_AFTER = (950.0, 5 * 3600.0, 20 * 3600.0)
"""Seconds: after the time-outs of the stop and of the start, and much longer."""
FAULT_KINDS = {
    "cut",
    "doubled",
    "empty",
    "ends",
    "foreign_next",
    "hang",
    "hang_done",
    "html",
    "late",
    "late_listing",
    "lost",
    "proxy",
    "redirect",
    "short",
    "slow_delete",
    "slow_power",
    "stale",
    "start_never",
    "status",
    "stop_never",
    "stuck",
    "trickle",
    "truncated",
}
GET_KINDS = ("cut", "hang", "html", "truncated", "short", "foreign_next", "redirect", "trickle")

_times = st.integers(1, 3)
_skip = st.integers(0, 3)
_looks = st.integers(0, 12)
_late = st.sampled_from([1.0, 5.0, 30.0, 90.0, 115.0])

POWER_ERRORS = (400, 401, 403, 404, 409, 429, 500)
RETRY_AFTER = ("", "0", "7", "3600", "86400", "1737000000", "Fri, 01 Jan 2100 00:00:00 GMT")
"""None, some seconds, an hour, a day, an epoch, and a date."""
_retry_after = st.sampled_from(("", *RETRY_AFTER))

faults = st.one_of(
    st.builds(
        Fault,
        kind=st.sampled_from(
            ["lost", "cut", "late", "hang", "hang_done", "truncated", "stuck", "stuck", "ends", "ends", "late_listing"]
        ),
        method=st.just("POST"),
        path=st.just("/snapshots/"),
        times=_times,
        skip=st.integers(0, 1),
        delay=_late,
    ),
    st.builds(
        Fault,
        kind=st.sampled_from(
            [
                "lost",
                "cut",
                "late",
                "late",
                "late",
                "hang",
                "hang_done",
                "truncated",
                "stop_never",
                "start_never",
                "slow_power",
            ]
        ),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "start", "hard_stop", ""]),
        times=_times,
        skip=st.integers(0, 1),
        delay=_late,
    ),
    st.builds(
        Fault,
        kind=st.just("status"),
        method=st.sampled_from(["POST", "POST", "DELETE", "GET"]),
        status=st.sampled_from([400, 403, 404, 409, 429, 500, 502, 503]),
        done=st.booleans(),
        retry_after=_retry_after,
        times=_times,
        skip=_skip,
    ),
    # An error answer to a power request proves nothing.
    st.builds(
        Fault,
        kind=st.sampled_from(["status", "status", "proxy", "html"]),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "start", "hard_stop", ""]),
        status=st.sampled_from(POWER_ERRORS),
        done=st.booleans(),
        retry_after=_retry_after,
        times=_times,
    ),
    # A proxy that sends again what it sent, within the time that a request may be late.
    st.builds(
        Fault,
        kind=st.just("doubled"),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "start", "hard_stop", "stop"]),
        status=st.sampled_from([0, 0, *POWER_ERRORS]),
        delay=st.sampled_from([0.0, 5.0, 60.0, 115.0]),
        times=_times,
    ),
    # A proxy that sends again what is to be made, or to go.
    st.builds(
        Fault,
        kind=st.just("doubled"),
        method=st.sampled_from(["POST", "POST", "DELETE"]),
        path=st.just("/snapshots/*"),
        status=st.sampled_from([0, 0, 409, 500]),
        delay=st.sampled_from([0.0, 5.0, 60.0, 115.0]),
    ),
    # A replica that lags behind for less than a poll, or is far behind once.
    st.builds(
        lambda lag, skip: Fault(kind="stale", method="GET", delay=lag[0], times=lag[1], skip=skip),
        st.one_of(st.tuples(st.just(29.0), st.integers(1, 8)), st.just((FAR_BEHIND, 1))),
        _looks,
    ),
    # A server that is not found, in whosever words, and is listed: for longer than a start is waited for, too.
    st.builds(
        Fault,
        kind=st.sampled_from(["status", "proxy", "html"]),
        method=st.just("GET"),
        path=st.just("/servers/*/"),
        status=st.just(404),
        times=st.sampled_from([3, 60]),
        skip=_looks,
    ),
    *2
    * [
        st.builds(
            Fault,
            kind=st.sampled_from(GET_KINDS),
            method=st.just("GET"),
            times=st.integers(1, 8),
            skip=st.integers(0, 8),
            delay=st.just(60.0),
        ),
    ],
    # The enemy: a stop that strikes when the rotation may be over; or, where it was acknowledged, hours later.
    st.builds(
        lambda late: Fault(kind=late[0], method="POST", path="/servers/*/power/", action="stop", delay=late[1]),
        st.one_of(
            st.tuples(st.just("late"), st.sampled_from([90.0, 115.0])),
            st.tuples(st.just("slow_power"), st.sampled_from([90.0, 115.0, *LONG_AFTER])),
        ),
    ),
    # A list that shows nothing, and says so: for less than `settle`, which is what it is for.
    st.builds(Fault, kind=st.just("empty"), method=st.just("GET"), times=_times, skip=st.integers(0, 20)),
    st.builds(
        Fault,
        kind=st.sampled_from(["lost", "cut", "late", "hang", "slow_delete"]),
        method=st.just("DELETE"),
        times=_times,
        delay=_late,
    ),
)


def _power(kind: str, action: str, **options: Any) -> Fault:
    return Fault(kind=kind, method="POST", path="/servers/*/power/", action=action, **options)


CONSPIRACIES: dict[str, Callable[[], tuple[Fault, ...]]] = {
    "a doubled stop strikes after an early start": lambda: (
        _power("doubled", "stop", delay=115.0),
        Fault(kind="status", status=403, method="POST", path="/snapshots/"),
    ),
    "a late stop, and starts that come to nothing": lambda: (
        _power("slow_power", "stop", delay=5 * 3600.0),
        _power("start_never", "start", times=12),
    ),
    "a late stop, and the next slot's": lambda: (_power("slow_power", "stop", delay=5 * 3600.0),),
}
"""What would seldom meet by chance, and has left servers off."""

conspiracies = st.sampled_from(sorted(CONSPIRACIES)).map(lambda name: [*CONSPIRACIES[name]()])


def fair(faults: tuple[Fault, ...]) -> list[Fault]:
    """Without what nobody could keep a promise under.

    Other than to a power request, a refusal means that nothing was done; only a 409 and a 5xx may hide that it was: a
    snapshot that was taken and refused with 429 would be asked for again. And two looks that are both far behind would
    prove that a server runs which does not; as a server is taken for gone that is neither found nor listed for as long
    as a start is waited for.
    """
    kept: list[Fault] = []
    for fault in faults:
        if fault.kind == "status" and fault.status < 500 and fault.status != 409 and "power" not in fault.path:
            fault.done = False
        is_far_behind = fault.kind == "stale" and fault.delay == FAR_BEHIND
        if not (is_far_behind and any(other.delay == FAR_BEHIND and other.kind == "stale" for other in kept)):
            kept.append(fault)
    return kept
