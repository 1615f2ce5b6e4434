"""The size of the house in figures: `python -m tests.support.house_figures`, or `make figures`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "snaprotd"

Function = ast.FunctionDef | ast.AsyncFunctionDef

FORKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
"""What ruff counts, which refuses more than ten."""


@dataclass(frozen=True)
class Measured:
    """A function."""

    place: str
    lines: int
    """From `def` to its end, without its docstring."""
    ways: int
    """Through it: its complexity."""


class House:
    """All that is in the package, by room: the folders, and the package itself for what lies at the door."""

    @cached_property
    def files(self) -> dict[Path, int]:
        """Each file with its lines."""
        return {path: len(path.read_text().splitlines()) for path in sorted(HOUSE.rglob("*.py"))}

    @cached_property
    def rooms(self) -> dict[str, list[Path]]:
        """What lies in each folder itself."""
        rooms: dict[str, list[Path]] = {}
        for path in self.files:
            rooms.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
        return dict(sorted(rooms.items()))

    @cached_property
    def functions(self) -> list[Measured]:
        """The longest first."""
        found = (_measure(path, node) for path in self.files for node in _functions(path))
        return sorted(found, key=lambda one: (-one.lines, one.place))


def counted(room: list[Path]) -> list[Path]:
    """The files that count: one that only makes a folder a package does not."""
    return [path for path in room if path.name != "__init__.py"]


def nine_in_ten(lengths: list[int]) -> float:
    """So long or shorter are nine in ten."""
    return quantiles(lengths, n=10, method="inclusive")[-1]


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def _measure(path: Path, node: Function) -> Measured:
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
    place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
    return Measured(place, lines, 1 + sum(isinstance(inner, FORKS) for inner in ast.walk(node)))


def _docstring_lines(node: Function) -> int:
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    assert first.end_lineno is not None
    return first.end_lineno - first.lineno + 1


def figures(house: House) -> Iterator[str]:
    """What is printed."""
    for room, paths in house.rooms.items():
        yield f"{room:32} {len(counted(paths)):3} files {sum(house.files[path] for path in paths):6} lines"
    longest = max(house.files, key=house.files.__getitem__)
    yield f"{'in all':32} {len(house.files):3} files {sum(house.files.values()):6} lines"
    yield f"longest file: {longest.relative_to(ROOT)}, {house.files[longest]} lines"
    lengths = [one.lines for one in house.functions]
    first = house.functions[0]
    yield f"functions: {len(lengths)}, median {median(lengths):g} lines, nine in ten at most {nine_in_ten(lengths):g}"
    yield f"longest function: {first.place}, {first.lines} lines"
    crooked = max(house.functions, key=lambda one: one.ways)
    yield f"most ways through one: {crooked.place}, {crooked.ways}"


if __name__ == "__main__":
    print("\n".join(figures(House())))
