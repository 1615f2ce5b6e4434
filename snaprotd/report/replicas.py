"""The replicas that share a ledger, as they are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from snaprotd.core.fleet import REPORTER, TELLER
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.words import Json, count, listed
from snaprotd.report.kinds import Problem


def replica_rows(fleet: Fleet | None) -> list[Json]:
    """Those that live, as they were seen last; the one that looks alone where none was seen yet, or can be."""
    if fleet is None:
        return []
    return [
        {
            "id": one.id,
            "host": one.host,
            "snaprotd": one.version,
            "config": one.config,
            "generation": one.generation,
            "begins_rotations": not fleet.why_none(one),
            "why_none": fleet.why_none(one),
            "is_me": one.id == fleet.me.id,
            "is_reporter": fleet.roles.get(REPORTER) == one.id,
            "is_teller": fleet.roles.get(TELLER) == one.id,
        }
        for one in fleet.living
    ]


def runner(fleet: Fleet | None, owners: Mapping[str, str], rotation_id: str) -> Json | None:
    """Which replica runs a rotation; None where none does that lives: a command does, or nobody yet."""
    living = () if fleet is None else fleet.living
    found = [one for one in living if one.id == owners.get(rotation_id)]
    return {"id": found[0].id, "host": found[0].host} if found else None


def of_lost(host: str, left: int) -> Problem:
    """One that has gone, and how many live."""
    return Problem("replica_lost", {"host": host, "how_many": count(left, "replica")})


def of_replicas(fleet: Fleet | None) -> Iterator[Problem]:
    """Replicas that were lost; such with different configurations, and which of them begin rotations."""
    if fleet is None:
        return
    for one in fleet.lost:
        yield of_lost(one.host, len(fleet.living))
    for one in fleet.living:
        if one.id != fleet.me.id and one.generation == fleet.leading and (why := fleet.why_none(one)):
            yield Problem("replica_idle", {"host": one.host, "why": why})
    if fleet.is_of_one_mind:
        return
    older = [one for one in fleet.living if one.generation < fleet.leading]
    mine = "; this one begins none" if fleet.me in older else ""
    hosts = listed(sorted({one.host for one in older}))
    facts = {"number": count(len(older), "replica"), "hosts": hosts, "of_how_many": len(fleet.living)}
    yield Problem("configurations_differ", {**facts, "and_this_one": mine})
