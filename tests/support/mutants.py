"""Lines broken on purpose, one at a time, each in a copy of the tree: are they noticed? `make mutants`.

The list is `mutants.txt` beside this file. A mutant is a block of lines:

    core/power.py: what the line protects
    - a part of the line, which stands once in that file of `snaprotd/`
    + what stands there instead
    core/test_power.py scenarios/test_power.py::test_one_of_them
    survives: why no promise rests on it

The fourth has the tests below `tests/` that are to notice. The last is for the few that nobody need notice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.txt")

LONGEST = 120.0
"""Seconds that the tests of one mutant may take; they take a few, but where it waits for ever."""

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "docs", "deploy")


class Fate(StrEnum):
    KILLED = "killed"
    TIMED_OUT = "timed out"
    """The tests do not end, so it is noticed."""
    SURVIVED = "survived"
    EXPECTED = "survived, as is known"
    KILLED_AFTER_ALL = "killed, though it is listed as a survivor"
    BROKEN = "could not be tried"
    """It is no program, or there are no such tests."""


GOOD = {Fate.KILLED, Fate.TIMED_OUT, Fate.EXPECTED}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    file: str
    protects: str
    line: str
    instead: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def path(self) -> Path:
        """Of the file, in any copy of the tree."""
        return Path("snaprotd", self.file)

    def __str__(self) -> str:
        return f"{self.file}: {self.protects}"


def read(text: str) -> list[Mutant]:
    """The mutants of a list. Raises ValueError where a block is not as told above."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    told = [[line for line in block if not line.startswith("#")] for block in blocks]
    return [_mutant(block) for block in told if block]


def _mutant(block: list[str]) -> Mutant:
    head, line, instead, tests, *more = block
    if line[:2] != "- " or instead[:1] != "+" or len(more) > 1 or (more and not more[0].startswith("survives: ")):
        raise ValueError(f"this is no mutant: {block}")
    file, protects = head.split(": ", 1)
    survives = more[0].removeprefix("survives: ") if more else ""
    return Mutant(
        file=file,
        protects=protects,
        line=line[2:],
        instead=instead[2:],
        tests=tuple(f"tests/{one}" for one in tests.split()),
        survives=survives,
    )


def why_rotten(mutant: Mutant) -> str:
    """What of a mutant is not there any more, or an empty text."""
    found = (ROOT / mutant.path).read_text().count(mutant.line)
    if found != 1:
        return f"{mutant}: its line stands {found} times in the file: {mutant.line}"
    for test in mutant.tests:
        path, _, name = test.partition("::")
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text()):
            return f"{mutant}: there is no {test}"
    return ""


class Copy:
    """A copy of the tree, in which one line at a time is another one."""

    def __init__(self, folder: Path) -> None:
        self._tree = folder / "tree"
        shutil.copytree(ROOT, self._tree, ignore=NOT_COPIED)

    def fate_of(self, mutant: Mutant) -> Fate:
        file = self._tree / mutant.path
        before = file.read_text()
        file.write_text(before.replace(mutant.line, mutant.instead))
        try:
            fate = self._run(mutant.tests)
        finally:
            file.write_text(before)
        if not mutant.survives:
            return fate
        known = {Fate.SURVIVED: Fate.EXPECTED, Fate.BROKEN: Fate.BROKEN}
        return known.get(fate, Fate.KILLED_AFTER_ALL)

    def is_well(self, mutants: list[Mutant]) -> bool:
        """Nothing is noticed where nothing is broken; a test that fails anyway would kill them all."""
        tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        return self._run(tuple(tests), longest=10 * LONGEST) is Fate.SURVIVED

    def _run(self, tests: tuple[str, ...], *, longest: float = LONGEST) -> Fate:
        options = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--every-case")
        command = (sys.executable, "-m", "pytest", *options, *tests)
        # What was compiled from a line of equal length within the same second would be taken for the other one's.
        environment = {**os.environ, "PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "yes"}
        with subprocess.Popen(
            command,
            cwd=self._tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        ) as process:
            try:
                code = process.wait(longest)
            except subprocess.TimeoutExpired:
                return Fate.TIMED_OUT
            finally:
                _end(process)
        return {0: Fate.SURVIVED, 1: Fate.KILLED}.get(code, Fate.BROKEN)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def tried(mutants: list[Mutant]) -> Iterator[tuple[Mutant, Fate]]:
    """Each mutant with what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        if not copy.is_well(mutants):
            sys.exit("the tests fail, or are not found, where nothing is broken")
        for mutant in mutants:
            yield mutant, copy.fate_of(mutant)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="those whose first line has this text")
    only = parser.parse_args().only
    mutants = [one for one in read(LIST.read_text()) if only in str(one)]
    rotten = [why for one in mutants if (why := why_rotten(one))]
    if rotten or not mutants:
        print("\n".join(rotten) or f"there is no mutant of {only!r}")
        return 1
    began, fates = time.monotonic(), Counter[Fate]()
    for mutant, fate in tried(mutants):
        fates[fate] += 1
        print(f"{fate:10} {mutant}{f' ({mutant.survives})' if mutant.survives else ''}", flush=True)
        if fate not in GOOD:
            print(f"{'':10} - {mutant.line}\n{'':10} + {mutant.instead}", flush=True)
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    print(f"{len(mutants)} mutants: {told}; {time.monotonic() - began:.0f} s")
    return 0 if fates.keys() <= GOOD else 1


if __name__ == "__main__":
    sys.exit(main())
