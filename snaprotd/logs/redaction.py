"""Secrets are taken out of text here, and nowhere else: where an error is made, and once more wherever text leaves.

They travel in many writings: a peer echoes a header as Python's repr, a proxy writes it in a URL, a debug page shows it
in base64 or as a list of numbers, and whatever is cut somewhere leaves a part. So it is pieces of each writing that are
looked for.
"""

from __future__ import annotations

import re
from base64 import b32encode, b64encode
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

INSTEAD = "[token]"
"""What stands in the place of a secret."""

PIECE = 8
"""Letters of a secret that nobody may read together. A shorter secret is taken out as a whole."""
GRAM = 5
"""Letters of a piece that are looked for at first: few texts have any, and most are done with after that."""

MOST_REMEMBERED = 1024
"""Secrets that are in force, and were once: an old token may be valid still, and stand in an old row. There cannot be
so many at one time: one that found no room would be shown."""
MOST_SOURCES = 8
MOST_CACHED, LONGEST_CACHED = 100_000, 200
"""Texts, and characters of each. A fleet's report shows the same names every second."""

_LIKELY = re.compile(r"(?i:bearer)\s+(?!\[token\])[^\s\"',]+|\bvps_[A-Za-z0-9_\-]{6,}")
"""What a token of the provider looks like, for those that we do not know the value of."""

_ESCAPE = re.compile(
    r"""(?=[%\\&=\x00-\x1f\x7f-\x9f\u200b-\ufffd]) (?:
      (?:%u|\\u|\\U0000)(?P<unit>[0-9A-Fa-f]{4}) | (?:%|\\x)(?P<byte>[0-9A-Fa-f]{2}) | =(?P<mail>[0-9A-F]{2})
    | (?:\\[ux]\{|&\#[xX])0*(?P<hex>[0-9A-Fa-f]{1,5})[;}] | &\#0*(?P<number>[0-9]{1,6});
    | &(?P<name>quot|amp|lt|gt|apos); | \\(?P<octal>[0-3][0-7]{2}) | \\(?P<plain>.)
    | (?P<unseen>=\r?\n | [\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]))""",
    re.VERBOSE | re.DOTALL,
)
"""One character in another writing: of URLs, JSON, HTML, shells, C, mail; and characters that nobody sees."""
_BASES = {"number": 10, "octal": 8}
_NAMED = {"quot": '"', "amp": "&", "lt": "<", "gt": ">", "apos": "'"}
MOST_ROUNDS = 4
"""Times that one writing may stand within another."""

_NESTED = frozenset({dict, list, tuple})

_Spans = list[tuple[int, int]]


class Redactor:
    """Knows the secrets of this process, those in force and those before them."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[Callable[[], tuple[str, ...]], ...]] = {}
        self._secrets: tuple[str, ...] = ()
        self._told_last: list[tuple[Callable[[], tuple[str, ...]], tuple[str, ...]]] = []
        """Each of them, with what it told."""
        self._known: frozenset[str] = frozenset()
        self._pieces = _Pieces(())
        self._cached: dict[str, str] = {}

    def hide(self, secrets: Callable[[], tuple[str, ...]], kind: str = "token") -> None:
        """`secrets` is asked for each text: a token that is rotated is known at once. What was hidden stays hidden.

        Of each `kind` the last `MOST_SOURCES` are asked.
        """
        of_kind = [one for one in self._sources.get(kind, ()) if one != secrets]
        self._sources = {**self._sources, kind: (*of_kind, secrets)[-MOST_SOURCES:]}
        self._ask_all()

    def known(self, text: str) -> str:
        """`text` without the secrets that are known. For names, which may well look like a token and be none."""
        self._learn()
        return self._without_known(text)

    def clean(self, text: str) -> str:
        """`text` without the secrets that are known, and without what looks like one."""
        return _LIKELY.sub(INSTEAD, self.known(text))

    @staticmethod
    def is_likely_in(text: str) -> bool:
        """Whether something in it looks like a token, whoever's it is."""
        return _LIKELY.search(text) is not None

    def told(self, value: Any, keys: frozenset[str]) -> Any:
        """A value of JSON, in which the texts under these keys are without the secrets that are known."""
        self._learn()
        return self._told(value, keys, False)

    def _told(self, value: Any, keys: frozenset[str], is_concerned: bool) -> Any:
        kind = type(value)
        if kind is dict:
            # A fleet's report has half a million values: no call for those that need none.
            told = dict(value)
            for key, inner in value.items():
                if key in keys and type(inner) is str:
                    told[key] = self._without_known(inner)
                elif key in keys or type(inner) in _NESTED:
                    told[key] = self._told(inner, keys, key in keys)
            return told
        if kind in _NESTED:
            return [self._told(inner, keys, is_concerned) for inner in value]
        return self._without_known(value) if is_concerned and isinstance(value, str) else value

    def _without_known(self, text: str) -> str:
        length = len(text)
        if length < self._pieces.shortest:
            return text
        if length > LONGEST_CACHED:
            return self._pieces.taken_out_of(text)
        cached = self._cached
        if (clean := cached.get(text)) is None:
            if len(cached) >= MOST_CACHED:
                cached.clear()
            clean = cached[text] = self._pieces.taken_out_of(text)
        return clean

    def _learn(self) -> None:
        """Remember what the sources tell now: it hardly ever changes, and is asked for each text."""
        for source, told in self._told_last:
            if source() != told:
                self._ask_all()
                return

    def _ask_all(self) -> None:
        self._told_last = [(source, source()) for of_kind in self._sources.values() for source in of_kind]
        told = dict.fromkeys(secret for _, secrets in self._told_last for secret in secrets if secret)
        if new := told.keys() - self._known:
            self._secrets = (*new, *self._secrets)[:MOST_REMEMBERED]
            self._known = frozenset(self._secrets)
            self._pieces = _Pieces(self._secrets)
            self._cached = {}


class _Pieces:
    """All pieces of some secrets in all their writings, to be looked up: how long that takes, only the text decides."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._short = tuple(_folded(secret) for secret in secrets if len(secret) < PIECE)
        self._by_length: dict[int, set[str]] = {}
        self._grams: set[str] = set()
        """`GRAM` letters in a row of any piece: some of a piece are met wherever one looks at every fourth place."""
        for secret in secrets:
            for writing, length in _writings(secret) if len(secret) >= PIECE else ():
                folded = _folded(writing)
                for view in {folded, _FILLING.sub("", folded)}:
                    self._by_length.setdefault(length, set()).update(_runs(view, length))
                    self._grams.update(_runs(view, GRAM))
        self.shortest = min([*map(len, self._short), *self._by_length], default=inf)
        """Characters without which a text has none of them: no writing is undone to more than it was."""

    def taken_out_of(self, text: str) -> str:
        spans = list(self._spans(text)) if self._by_length or self._short else []
        return _without(text, spans) if spans else text

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where pieces stand in `text`, in whatever writing."""
        read: _Read | None = None
        plain = text
        for _ in range(MOST_ROUNDS):
            for start, end in self._seen_in(_folded(plain)):
                yield (start, end) if read is None else (read.starts[start], read.ends[end - 1])
            if _ESCAPE.search(plain) is None:
                return
            read = _read(plain, read or _Read(plain, list(range(len(text))), list(range(1, len(text) + 1))))
            plain = read.text

    def _seen_in(self, folded: str) -> Iterator[tuple[int, int]]:
        """As it stands, and with nothing between its letters: `[118, 112]`, `76:70`, `'v', 'p'`."""
        yield from self._found_in(folded)
        packed = [*self._found_in(_FILLING.sub("", folded))]
        if packed:
            gone = {at for filling in _FILLING.finditer(folded) for at in range(*filling.span())}
            kept = [at for at in range(len(folded)) if at not in gone]
            yield from ((kept[start], kept[end - 1] + 1) for start, end in packed)

    def _found_in(self, folded: str) -> Iterator[tuple[int, int]]:
        for secret in self._short:
            start = folded.find(secret)
            while start >= 0:
                yield start, start + len(secret)
                start = folded.find(secret, start + 1)
        step = PIECE - GRAM + 1
        looked_at = [folded[at : at + GRAM] for at in range(0, len(folded), step)]
        if self._grams.isdisjoint(looked_at):
            return
        for number, gram in enumerate(looked_at):
            if gram in self._grams:
                for start in range(max(0, (number - 1) * step + 1), number * step + 1):
                    for length, pieces in self._by_length.items():
                        if folded[start : start + length] in pieces:
                            yield start, start + length


def _runs(text: str, length: int) -> Iterator[str]:
    return (text[start : start + length] for start in range(len(text) - length + 1))


def _b16(data: bytes) -> bytes:
    return data.hex().encode()


_CODECS = ((_b16, 4, 1), (b32encode, 5, 5), (b64encode, 6, 3))
"""How bytes are written, the bits of one sign, and in how many ways it comes out, by what stands before it."""
_CHARSETS = (("utf-8", 1), ("utf-16-le", 2))
"""And the bytes of a letter in each."""
_NUMBERS = (("{}", 2), ("{:03}", 3), ("{:03o}", 3), ("{:04o}", 4))
"""How letters are written as numbers, and the fewest digits of one."""


def _writings(secret: str) -> Iterator[tuple[str, int]]:
    """How a secret may be written as a whole, and how many signs of that make a piece: what `PIECE` letters leave."""
    yield secret, PIECE
    for charset, width in _CHARSETS:
        encoded = secret.encode(charset)
        for encode, bits, ways in _CODECS:
            length = (8 * width * PIECE - bits + 1) // bits
            for before in range(ways):
                # The signs at its ends are its neighbours' too.
                coded = encode(bytes(before) + encoded).decode()
                yield coded[-(-before * 8 // bits) : (before + len(encoded)) * 8 // bits], length
    for form, digits in _NUMBERS:
        yield "".join(form.format(ord(letter)) for letter in secret), digits * PIECE


_FILLING = re.compile(r"0[xo]|[^a-z0-9/]+")
"""What may stand between letters or numbers in a row, in a text that is folded."""


def _folded(text: str) -> str:
    """For comparing: upper and lower case are one, and so are the two alphabets of base64. Of the same length."""
    return text.replace("\u0130", "i").lower().replace("-", "+").replace("_", "/")


class _Read:
    """A text with one writing undone, and where each of its characters stood in the first one."""

    def __init__(self, text: str, starts: list[int], ends: list[int]) -> None:
        self.text, self.starts, self.ends = text, starts, ends


def _read(text: str, before: _Read) -> _Read:
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    last = 0
    for escape in _ESCAPE.finditer(text):
        begin, end = escape.span()
        sign = _meant(escape)
        pieces += [text[last:begin], sign]
        starts += [*before.starts[last:begin], *before.starts[begin : begin + len(sign)]]
        ends += [*before.ends[last:begin], *before.ends[end - 1 : end - 1 + len(sign)]]
        last = end
    pieces.append(text[last:])
    return _Read("".join(pieces), [*starts, *before.starts[last:]], [*ends, *before.ends[last:]])


def _meant(escape: re.Match[str]) -> str:
    """The one character that an escape stands for; none for what nobody sees."""
    kind, written = escape.lastgroup, escape.group(escape.lastgroup or 0)
    if kind == "unseen":
        return ""
    if kind in ("plain", "name"):
        return _NAMED.get(written, written) if kind == "name" else written
    return chr(int(written, _BASES.get(str(kind), 16)))


def _without(text: str, spans: _Spans) -> str:
    pieces, last = [], 0
    for start, end in _merged(spans):
        pieces += [text[last:start], INSTEAD]
        last = end
    return "".join([*pieces, text[last:]])


def _merged(spans: _Spans) -> _Spans:
    """The same places, those that touch as one."""
    merged: _Spans = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


redactor = Redactor()
"""That of this process."""
