"""What was read of a file: values with the places where they were written, and what is wrong with the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KeyPath = tuple[str | int, ...]

FREED_AT_ONCE = 100
"""Nodes."""


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """Something wrong with the text at `line` and `column` (both from 1)."""

    line: int
    column: int
    path: KeyPath
    message: str
    lost: bool = True
    """Whether the value at `path` could not be read (it is None then)."""


class Node(NamedTuple):
    """A value and its place, both from 1. A mapping's content is its entries, a sequence's its nodes."""

    line: int
    column: int
    content: dict[str, Entry] | list[Node] | str | int | float | None
    written: str
    """A scalar as it stands in the file."""
    size: int
    """Nodes in it, aliases written out."""


class Entry(NamedTuple):
    """One key of a mapping, the key's place, and its value."""

    line: int
    column: int
    node: Node


@dataclass(frozen=True, kw_only=True)
class Document:
    """What was read. `root` is None where the text holds nothing, or nothing that could be read."""

    root: Node | None
    flaws: tuple[Flaw, ...]

    def value(self) -> object:
        """The plain value: dict, list, str, int, float, bool and None; nothing in it is shared."""
        return None if self.root is None else _plain(self.root)

    def dismantle(self) -> None:
        """Take it apart, bit by bit: to free it at once would keep all other threads waiting for as long."""
        left = [] if self.root is None else [self.root]
        while left:
            content = left.pop().content
            while content and isinstance(content, dict | list):
                node = content.popitem()[1].node if isinstance(content, dict) else content.pop()
                if node.size > FREED_AT_ONCE:
                    left.append(node)

    def place(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of the value at `path`, or of the nearest value around it that was written."""
        node = self._nodes(path)[-1]
        return node.line, node.column

    def key_place(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of the key that `path` ends with."""
        around = self._nodes(path[:-1])[-1].content
        entry = around.get(str(path[-1])) if isinstance(around, dict) else None
        return (entry.line, entry.column) if entry else self.place(path)

    def written(self, path: KeyPath) -> str:
        """The scalar at `path` as it stands in the file; `a list` or `a mapping` for those."""
        return self._nodes(path)[-1].written

    def _nodes(self, path: KeyPath) -> list[Node]:
        """The nodes on the way down `path`, as far as they were written."""
        nodes = [self.root or Node(1, 1, None, "", 1)]
        for step in path:
            inner = _inner(nodes[-1], step)
            if inner is None:
                break
            nodes.append(inner)
        return nodes


def _inner(node: Node, step: str | int) -> Node | None:
    content = node.content
    if isinstance(content, dict):
        entry = content.get(str(step))
        return entry.node if entry else None
    if isinstance(content, list) and isinstance(step, int) and step < len(content):
        found: Node = content[step]
        return found
    return None


def _plain(node: Node) -> object:
    content = node.content
    if isinstance(content, dict):
        return {key: _plain(entry.node) for key, entry in content.items()}
    return [_plain(each) for each in content] if isinstance(content, list) else content
