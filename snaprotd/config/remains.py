"""What is left of a file that is refused: the words in it that matter to servers that are off, however it is spelled.

Such a file is not believed in anything. It is only asked where a ledger or a token may be: what is not there is passed
over, so one guess too many does no harm, and one too few may leave a server off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, MappingStartEvent, NodeEvent, ScalarEvent, SequenceStartEvent

from snaprotd.config.file import beginning_of
from snaprotd.config.text.yaml_nodes import LOADER, MAX_DEPTH, UNSEEN
from snaprotd.core.errors import ConfigError

MOST_NAMED = 100
"""Values of one key."""
MOST_WORDS = 2000
"""Words that may be paths, of one file."""

MOST_EVENTS = 1_000_000
"""Parts of a text that are read as YAML; libyaml becomes slow with what is nested deep."""

_KEYS = ("state", "token_file", "base_url")
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
_LINE = re.compile(
    rf"""["']?\b({"|".join(_KEYS)})\b["']?\s*:\s*(?:[&!]\S*\s+)?("[^"\n]*"|'[^'\n]*'|[^\s"'][^\n]*)""", re.IGNORECASE
)
"""A key and what follows it, where the text around it is no YAML; also in the next line."""
_WORD = re.compile(r"""[^\s"'{}\[\],:]+""")


@dataclass(frozen=True, kw_only=True)
class Remains:
    """All that the file may have meant, most likely first."""

    states: tuple[str, ...] = ()
    token_files: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Whatever looks like a path: a key may be misspelt."""


NOTHING = Remains()


def remains_of(path: Path) -> Remains:
    """What is left of the file; nothing where it cannot be read. Never raises."""
    raw = b""
    with suppress(ConfigError):
        raw = beginning_of(path)
    found: dict[str, dict[str, None]] = {key: {} for key in _KEYS}
    words: dict[str, None] = {}
    for text in _texts(raw):
        for key, value in (*_by_yaml(text), *_by_line(text)):
            if value and key.lower() in found:
                found[key.lower()][value] = None
        words |= dict.fromkeys(filter(_may_be_a_path, _WORD.findall(_COMMENT.sub("", text))))
    states, token_files, base_urls = (tuple(found[key])[:MOST_NAMED] for key in _KEYS)
    return Remains(states=states, token_files=token_files, base_urls=base_urls, words=tuple(words)[:MOST_WORDS])


def _may_be_a_path(word: str) -> bool:
    return "/" in word or word.endswith(".db")


def _texts(raw: bytes) -> list[str]:
    """The file as the encodings have it that editors use; a byte that none of them knows costs a letter at the most."""
    texts = [raw.decode(errors="replace").replace("\0", "")]
    if b"\0" in raw:
        texts.append(raw.decode("utf-16", "replace"))
    elif "\ufffd" in texts[0]:
        texts.append(raw.decode("latin-1"))
    return [UNSEEN.sub(" ", text.removeprefix("\ufeff")) for text in texts]


def _by_yaml(text: str) -> Iterator[tuple[str, str]]:
    """Each key with its scalar, at whatever depth, up to where the text is no YAML any more."""
    anchors: dict[str, str] = {}
    around: list[str | None] = []
    """For each collection around: the key that waits for its value; None where a key comes next; empty in a list."""
    with suppress(yaml.YAMLError, ValueError):
        for event in islice(yaml.parse(text, Loader=LOADER), MOST_EVENTS):
            if len(around) > MAX_DEPTH:
                return
            if isinstance(event, MappingStartEvent):
                around.append(None)
            elif isinstance(event, SequenceStartEvent):
                around.append("")
            elif isinstance(event, CollectionEndEvent):
                around.pop()
                _value_ended(around)
            elif isinstance(event, ScalarEvent | AliasEvent):
                value = _value(event, anchors)
                if around and around[-1] is None:
                    around[-1] = value
                    continue
                if around and around[-1]:
                    yield around[-1], value
                _value_ended(around)


def _value(event: NodeEvent, anchors: dict[str, str]) -> str:
    if isinstance(event, ScalarEvent):
        if event.anchor is not None:
            anchors[event.anchor] = event.value
        return str(event.value)
    return anchors.get(event.anchor or "", "")


def _value_ended(around: list[str | None]) -> None:
    """Within a mapping a key comes next."""
    if around and around[-1] != "":
        around[-1] = None


def _by_line(text: str) -> Iterator[tuple[str, str]]:
    for key, value in _LINE.findall(_COMMENT.sub("", text)):
        if value[0] in "\"'":
            yield key, value[1:-1]
        else:
            yield key, value.strip()
            yield key, re.split(r"[,}]", value)[0].strip()
