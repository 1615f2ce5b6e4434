"""What a rotation costs in the ledger's file: the real ledger alone, in a process of its own, with nobody beside it.

A rotation is what a daemon writes of one with nothing in its way: its claim, and the saves in `SAVES`. Alone is one
after the other. `python -m bench.ledger NUMBER at-once|alone FOLDER` is one such process, and prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.extent import Extent
from bench.processes import PATIENCE, PYTHON
from bench.replicas import SLOT, a_rotation
from bench.table import Figures, Row
from snaprotd.core import creation
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger

ALONE = 50
"""Rotations one after the other: the figure is of each."""
TOGETHER = 50
"""Rows that SQLite alone writes in one transaction."""
LEDGER = "state.db"
NO_FILE = 10**9

ROWS = (
    Row(what="ledger: CPU of a claim, ms", key="claim_ms", goals={1000: 0.3}, of_each=True),
    Row(what="- in terms of SQLite alone, 50 in one transaction", key="times_claim", form=".1f", of_each=True),
    Row(what="- CPU of a save, ms", key="save_ms", goals={1000: 0.3}, of_each=True),
    Row(what="- in terms of SQLite alone, 50 in one transaction", key="times_save", form=".1f", of_each=True),
    Row(what="- fsyncs a rotation", key="fsyncs", goals={1: 5, 1000: 1}, of_each=True),
    Row(what="- kB written a rotation", key="kilobytes", goals={1000: 20}, form=".1f", of_each=True),
)

Change = Callable[[Rotation], Rotation]

_MADE = "3f0c2a52-9f8e-4a53-8a56-0d6b6f2c9a10"

SAVES: Mapping[str, Change] = {
    "it is about to be asked for": lambda one: replace(
        one, step=Step.SNAPSHOT, creation=creation.promised(one.creation, had_others=True)
    ),
    "it is made": lambda one: replace(
        one, step=Step.WAIT, begun=True, creation=creation.made(one.creation, _MADE), note="the snapshot is in progress"
    ),
    "it is listed": lambda one: replace(one, creation=replace(one.creation, taken_at=SLOT), was_in_progress=True),
    "it is completed": lambda one: replace(one, step=Step.START, creation=replace(one.creation, took=300.0)),
    "the oldest is about to be deleted": lambda one: replace(one, step=Step.PRUNE, deleting=("801",)),
    "it has ended": lambda one: replace(
        one, step=Step.DONE, deleted=("801",), result=Result.SUCCESS, finished_at=SLOT + timedelta(minutes=6)
    ),
}


def figures(extent: Extent) -> Figures:
    return {1: rotated(ALONE, "alone"), **{number: rotated(number, "at-once") for number in extent.servers}}


def rotated(number: int, how: str) -> dict[str, Any]:
    """The processor without anything that watches it, and then what the system was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("bench.ledger", str(number), how)
        told = _told([*PYTHON, *words, str(Path(folder, "own"))])
        claim, save = by_sqlite_alone(Path(folder, "own", LEDGER))
        told |= {"times_claim": told["claim_ms"] / claim, "times_save": told["save_ms"] / save}
        if shutil.which("strace"):
            calls = Path(folder) / "calls"
            watched = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(calls)]
            _told([*watched, *PYTHON, *words, str(Path(folder, "watched"))])
            told["fsyncs"] = fsyncs(calls.read_text()) / number
    return told


def _told(command: list[str]) -> dict[str, Any]:
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE).stdout
    return dict(json.loads(told))


def fsyncs(calls: str) -> int:
    """Of what `strace` has written: those between the two of no file at all, which are `_mark`."""
    syncs = [line for line in calls.splitlines() if "sync(" in line]
    first, last = (number for number, line in enumerate(syncs) if f"sync({NO_FILE})" in line)
    return last - first - 1


def by_sqlite_alone(ledger: Path) -> tuple[float, float]:
    """CPU of writing the ledger's own rows as new ones, and of writing them again, ms each: `TOGETHER` at a time."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.row_factory = sqlite3.Row
        rows = [dict(one) for one in connection.execute("SELECT * FROM rotations").fetchall()]
        for number, row in enumerate(rows):
            row |= {"id": f"{number:032x}", "server_id": f"another-{number}"}
        names, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        changed = ", ".join(f"{name} = ?" for name in rows[0])
        new = _by_groups(
            connection, f"INSERT INTO rotations ({names}) VALUES ({marks})", [[*one.values()] for one in rows]
        )
        again = [[*one.values(), one["id"]] for one in rows]
        return new, _by_groups(connection, f"UPDATE rotations SET {changed} WHERE id = ?", again)


def _by_groups(connection: sqlite3.Connection, statement: str, written: list[list[Any]]) -> float:
    before = time.process_time()
    for first in range(0, len(written), TOGETHER):
        connection.execute("BEGIN IMMEDIATE")
        for values in written[first : first + TOGETHER]:
            connection.execute(statement, values)
        connection.execute("COMMIT")
    return 1000 * (time.process_time() - before) / len(written)


# -- one of them -------------------------------------------------------------------------------------------------


async def rotate(number: int, *, at_once: bool, folder: Path) -> dict[str, Any]:
    async with await Ledger.open(folder / LEDGER, owner=uuid.uuid4().hex) as ledger:
        rotations = [a_rotation(str(one)) for one in range(number)]
        written = _written()
        _mark()
        claiming = await _spent(ledger.claim, rotations, at_once=at_once, answer=Claimed)
        saving = 0.0
        for change in SAVES.values():
            rotations = [change(one) for one in rotations]
            saving += await _spent(ledger.save, rotations, at_once=at_once)
        _mark()
        return {
            "claim_ms": 1000 * claiming / number,
            "save_ms": 1000 * saving / number / len(SAVES),
            "kilobytes": (_written() - written) / number / 1000,
        }


async def _spent(work: Any, rotations: list[Rotation], *, at_once: bool, answer: type | None = None) -> float:
    """Seconds of the processor, the thread of the database with them."""
    before = time.process_time()
    if at_once:
        answers = await asyncio.gather(*map(work, rotations))
    else:
        answers = [await work(one) for one in rotations]
    used = time.process_time() - before
    assert answer is None or all(isinstance(one, answer) for one in answers)
    return used


def _mark() -> None:
    """What is between two of these is counted: see `fsyncs`."""
    with suppress(OSError):
        os.fsync(NO_FILE)


def _written() -> int:
    """Bytes that this process has written to files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))


def main(number: str, how: str, folder: str) -> None:
    Path(folder).mkdir()
    print(json.dumps(asyncio.run(rotate(int(number), at_once=how == "at-once", folder=Path(folder)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
