"""What a rotation costs in the ledger's file: the real ledger alone, in a process of its own, with nobody beside it.

`python -m bench.ledger` measures one rotation after the other, and many at once: `rotate NUMBER at-once FOLDER` is one
such process. A rotation is what a daemon writes of one with nothing in its way: its claim, and the saves in `SAVES`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.processes import PATIENCE, PYTHON
from bench.replicas import SLOT, a_rotation
from snaprotd.core import creation
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger

AT_ONCE = 1000
ALONE = 50
"""Rotations one after the other: the figure is of each."""

Figures = dict[str, Any]
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


def figures() -> Figures:
    return {"alone": _rotated(ALONE, at_once=False), "at_once": _rotated(AT_ONCE, at_once=True)}


def _rotated(number: int, *, at_once: bool) -> Figures:
    """The processor without anything that watches it, and then what the system was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("bench.ledger", "rotate", str(number), "at-once" if at_once else "alone")
        told = _told([*PYTHON, *words, str(Path(folder, "plain"))])
        if shutil.which("strace") is None:
            return {**told, "fsyncs": None}
        calls = Path(folder) / "calls"
        watched = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(calls)]
        _told([*watched, *PYTHON, *words, str(Path(folder, "watched"))])
        lines = calls.read_text().splitlines()
    syncs = [line for line in lines if "sync(" in line]
    return {**told, "fsyncs": len(syncs) / number}


def _told(command: list[str]) -> Figures:
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE).stdout
    return dict(json.loads(told))


def in_words(told: Figures, key: str, form: str = ".2f") -> str:
    """Of one alone, and of many at once."""
    return " / ".join("-" if told[one][key] is None else format(told[one][key], form) for one in ("alone", "at_once"))


def rows(told: Figures) -> list[tuple[str, str, str]]:
    return [
        (f"the ledger, processor: ms a claim, alone / {AT_ONCE} at once", in_words(told, "claim_ms"), "<= 0.3"),
        ("- ms a save", in_words(told, "save_ms"), "<= 0.3"),
        ("- fsyncs a rotation", in_words(told, "fsyncs"), "<= 5 / <= 1"),
        ("- kB written a rotation", in_words(told, "kilobytes", ".0f"), "<= 20"),
    ]


# -- one of them -------------------------------------------------------------------------------------------------


async def rotate(number: int, *, at_once: bool, folder: Path) -> Figures:
    async with await Ledger.open(folder / "state.db", owner=uuid.uuid4().hex) as ledger:
        rotations = [a_rotation(str(one)) for one in range(number)]
        written = _written()
        claiming = await _spent(ledger.claim, rotations, at_once=at_once, answer=Claimed)
        saving = 0.0
        for change in SAVES.values():
            rotations = [change(one) for one in rotations]
            saving += await _spent(ledger.save, rotations, at_once=at_once)
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


def _written() -> int:
    """Bytes that this process has written to files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["rotate"]:
        number, how, folder = int(arguments[1]), arguments[2], Path(arguments[3])
        folder.mkdir()
        print(json.dumps(asyncio.run(rotate(number, at_once=how == "at-once", folder=folder))))
    else:
        told = figures()
        print(json.dumps(told, indent=1))
        for line in rows(told):
            print(" | ".join(line))


if __name__ == "__main__":
    main(sys.argv[1:])
