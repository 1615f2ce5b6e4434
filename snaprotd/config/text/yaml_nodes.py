"""YAML text to plain values, each with the place where it was written, or to what is wrong with the text.

PyYAML's own loaders speak YAML 1.1 and look away: a repeated key is taken in silence, `no` is false, `22:30` is 1350
and `0600` is 384. Here libyaml only cuts the text into events. What a plain word means follows YAML 1.2's core schema,
but that a number in any but the common decimal form (`0600`, `0o17`, `0xff`) stays text. Repeated keys, keys that are
not text, tags, merge keys and several documents are refused, and aliases are bounded.

Nodes are built from events, not by PyYAML's composer: that one recurses in C, and 100,000 `[` end the interpreter with
a segmentation fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    StreamEndEvent,
)

from snaprotd.config.text.document import Document, Entry, Flaw, KeyPath, Node

MAX_DEPTH = 32
MAX_NODES = 400_000
"""Values in one file: three times what 10,000 servers with a dozen keys each take."""
MAX_ALIASED = 100_000
"""Nodes that aliases may add, all together: 10,000 servers may share a list, ten lines may not become a billion."""

LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMERIC_START = frozenset("-+.0123456789")
_LONGEST_INTEGER = 18
"""Digits: what a signed 64-bit number always holds."""
_LONG_INTEGER = re.compile(rf"[-+]?[1-9][0-9]{{{_LONGEST_INTEGER},}}")

UNSEEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What YAML does not allow, and the line breaks that no editor counts."""
_ESCAPED_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def read(text: str) -> Document:
    """Read one YAML document. Never raises: what is wrong is in `flaws`."""
    unseen = list(islice(UNSEEN.finditer(text.removeprefix("\ufeff")), 20))
    if unseen:
        return Document(root=None, flaws=tuple(_unseen_flaw(text.removeprefix("\ufeff"), found) for found in unseen))
    reading = _Reading(text)
    try:
        root = reading.document()
    except _UnreadableError as error:
        return Document(root=None, flaws=(*reading.flaws, error.flaw))
    return Document(root=root, flaws=tuple(reading.flaws))


def lines_of(text: str) -> list[str]:
    """The text's lines, broken as the line numbers here count them."""
    return re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))


class _UnreadableError(Exception):
    """Nothing can be made of the rest of the text."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


class _Reading:
    """One pass over the events of a text."""

    def __init__(self, text: str) -> None:
        self._text = text.removeprefix("\ufeff")
        self._next: Callable[[], Any]
        self._anchors: dict[str, Node] = {}
        self._aliased = 0
        self._count = 0
        self.flaws: list[Flaw] = []

    def document(self) -> Node | None:
        try:
            self._next = LOADER(self._text).get_event
            return self._document()
        except yaml.MarkedYAMLError as error:
            raise _UnreadableError(_syntax_flaw(error, self._text)) from None
        except yaml.YAMLError as error:
            raise _UnreadableError(Flaw(line=1, column=1, path=(), message=f"not YAML: {error}")) from None

    def _document(self) -> Node | None:
        self._next()  # the stream begins
        if isinstance(self._next(), StreamEndEvent):
            return None
        root = self._node(self._next(), ())
        self._next()  # the document ends
        after = self._next()
        if isinstance(after, DocumentStartEvent):
            raise _UnreadableError(_flaw(after, (), "a second document begins here: the file should hold one"))
        return root

    def _node(self, event: Event, path: KeyPath) -> Node:
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(_flaw(event, (), f"nested more than {MAX_DEPTH} deep"))
        self._count += 1
        if self._count > MAX_NODES:
            raise _UnreadableError(_flaw(event, (), f"more than {MAX_NODES:,} values: this is no configuration"))
        if isinstance(event, AliasEvent):
            return self._alias(event, path)
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, path)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(event, path)
        else:
            node = self._sequence(event, path)
        assert isinstance(event, NodeEvent)
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            node = self._refuse(event, path, f"tags such as `{shown}` are not supported: write the value alone")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent, path: KeyPath) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            message = f'no anchor `&{event.anchor}` before this: put text that begins with `*` in quotes, as in "*-web"'
            return self._refuse(event, path, message)
        self._aliased += node.size
        if self._aliased > MAX_ALIASED:
            raise _UnreadableError(_flaw(event, (), f"aliases add more than {MAX_ALIASED:,} values: write them out"))
        return node

    def _mapping(self, start: Event, path: KeyPath) -> Node:
        entries: dict[str, Entry] = {}
        size = 1
        while not isinstance(event := self._next(), CollectionEndEvent):
            key = self._key(event, path)
            node = self._node(self._next(), (*path, key.written))
            size += node.size
            if key.content is None or self._is_repeated(key, entries, path):
                continue
            entries[key.written] = Entry(key.line, key.column, node)
        return Node(*_place(start), entries, "a mapping", size)

    def _key(self, event: Event, path: KeyPath) -> Node:
        """The key as a node, its content None where it is refused."""
        if not isinstance(event, ScalarEvent):
            self._node(event, (*path, "?"))
            return self._refuse(event, (*path, "?"), "a key should be a plain word")
        if event.tag is None and (event.style or _is_key(event.value)) and event.value.isprintable():
            return Node(*_place(event), event.value, event.value, 1)
        if event.value == "<<" and not event.style:
            message = "merge keys are not supported: put what is shared into `defaults` or a policy"
        elif not event.value.isprintable():
            message = "a key should be a plain word, without control characters"
        else:
            message = "a key should be a plain word: put it in quotes if it is meant"
        return self._refuse(event, (*path, event.value), message)._replace(written=event.value)

    def _is_repeated(self, key: Node, entries: dict[str, Entry], path: KeyPath) -> bool:
        first = entries.get(key.written)
        if first is None:
            return False
        message = f"repeated key: it stands in line {first.line} already"
        repeated = (*path, key.written)
        self.flaws.append(Flaw(line=key.line, column=key.column, path=repeated, message=message, lost=False))
        return True

    def _sequence(self, start: Event, path: KeyPath) -> Node:
        nodes: list[Node] = []
        while not isinstance(event := self._next(), CollectionEndEvent):
            nodes.append(self._node(event, (*path, len(nodes))))
        return Node(*_place(start), nodes, "a list", 1 + sum(node.size for node in nodes))

    def _scalar(self, event: Event, path: KeyPath) -> Node:
        assert isinstance(event, ScalarEvent)
        if event.style and _ESCAPED_CONTROL.search(event.value):
            return self._refuse(event, path, "control characters are not allowed, not even written as `\\x..`")
        if not event.style and len(event.value) > _LONGEST_INTEGER and _LONG_INTEGER.fullmatch(event.value):
            message = f"a number of more than {_LONGEST_INTEGER} digits: put it in quotes if it is a name"
            return self._refuse(event, path, message)
        if event.style:  # it is in quotes or a block
            return Node(*_place(event), event.value, f'"{event.value}"', 1)
        return Node(*_place(event), _meaning(event.value), event.value, 1)

    def _refuse(self, event: Event, path: KeyPath, message: str) -> Node:
        flaw = _flaw(event, path, message)
        self.flaws.append(flaw)
        return Node(flaw.line, flaw.column, None, "", 1)


@lru_cache(maxsize=1024)
def _is_key(word: str) -> bool:
    """Without quotes. Thousands of entries have the same few."""
    return word != "<<" and isinstance(_meaning(word), str)


def _meaning(word: str) -> str | int | float | None:
    """Of a word that is neither in quotes nor a block."""
    if word in _NULLS:
        return None
    if word in _BOOLEANS:
        return _BOOLEANS[word]
    if word[0] not in _NUMERIC_START:
        return word
    if _INTEGER.fullmatch(word):
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    return float(word.replace(".", "", 1)) if _NOT_FINITE.fullmatch(word) else word


def _place(event: Event) -> tuple[int, int]:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _flaw(event: Event, path: KeyPath, message: str) -> Flaw:
    line, column = _place(event)
    return Flaw(line=line, column=column, path=path, message=message)


def _unseen_flaw(text: str, found: re.Match[str]) -> Flaw:
    before = lines_of(text[: found.start()])
    message = f"the invisible character U+{ord(found[0]):04X} is not allowed here: delete it"
    return Flaw(line=len(before), column=len(before[-1]) + 1, path=(), message=message)


def _syntax_flaw(error: yaml.MarkedYAMLError, text: str) -> Flaw:
    """A syntax error, at the place where the reader of the file should look."""
    mark = error.problem_mark or error.context_mark
    begin = error.context_mark or mark
    if mark is None or begin is None:
        return Flaw(line=1, column=1, path=(), message=f"not YAML: {error.problem}")
    at_begin = (
        "alias" in (error.context or "") or "anchor" in (error.context or "") or "end of stream" in str(error.problem)
    )
    shown = begin if at_begin else mark
    line = lines_of(text)[shown.line] if shown.line < len(lines_of(text)) else ""
    message = _syntax_message(str(error.problem), line[shown.column : shown.column + 1], begin.line + 1)
    return Flaw(line=shown.line + 1, column=shown.column + 1, path=(), message=message)


_SYNTAX = (
    (
        "mapping values are not allowed",
        "no `:` can stand here: put text that contains `: ` in quotes, or check the indentation",
    ),
    ("end of stream", "this quote is never closed"),
    ("',' or ']'", "expected `,` or `]`: the list begins in line {begin}"),
    ("',' or '}'", "expected `,` or `}}`: the mapping begins in line {begin}"),
    ("expected key", "expected a key: check the indentation and the quotes (the mapping begins in line {begin})"),
    ("'-' indicator", "expected `- `: check the indentation (the list begins in line {begin})"),
    ("node content", "expected a value: put text with `{char}` in quotes"),
    ("<document start>", "nothing more is expected here: check the indentation and the brackets"),
    ("line break", "expected the end of the line: put text that begins with `|` or `>` in quotes"),
    ("escape", "no such escape: write a backslash as `\\\\`, or use single quotes"),
)


def _syntax_message(problem: str, char: str, begin: int) -> str:
    if char == "\t" or "tab character" in problem:
        return "a tab cannot indent: use spaces"
    if ("cannot start" in problem or "alphabetic" in problem) and char:
        return f"text that begins with `{char}` must be in quotes"
    for words, message in _SYNTAX:
        if words in problem:
            return message.format(begin=begin, char=char)
    return f"not YAML: {problem}"
