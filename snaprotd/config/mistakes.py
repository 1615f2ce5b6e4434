"""What is wrong with a configuration file, as plain sentences, each at its place, none with a secret in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from snaprotd.config.document import Document, Flaw, KeyPath
from snaprotd.config.shape import (
    FILE,
    LARGEST_LIMIT,
    OWN_SERVER,
    TAGS,
    ApiKeys,
    FileKeys,
    PolicyKeys,
    RetentionKeys,
    ServerKeys,
)
from snaprotd.config.yaml_nodes import lines_of
from snaprotd.core.errors import ConfigError, Mistake
from snaprotd.core.model import PROVIDER_LIMIT

_SECRETS = re.compile(r"(vps_)[A-Za-z0-9_-]{8,}|(//)\S*(?=@)")
"""A token of the provider; name and password in a URL."""
_SECRET_LINE = re.compile(r"""((?i:token|password|secret|api_?key)["']?\s*:\s*)(\S.*)""")
_LONGEST_MESSAGE = 1000
_SECRET_KEYS = frozenset(("token", "api_token", "access_token", "api_key", "apikey", "password", "secret"))
_INLINE = (
    "the API token does not belong in this file: put it alone into another one and name that with `api.token_file` or "
    "$SNAPROTD_TOKEN_FILE, or set $VPS_API_TOKEN"
)
_SYNONYMS = {"cron": "schedule", "retention": "keep", "tz": "timezone", "server_id": "id", "label": "name"}
_SYNONYMS |= {"url": "base_url", "disabled": "paused", "rate_limit": "requests_per_second"}
_SECTIONS: Mapping[str, tuple[type, str]] = {
    "": (FileKeys, "at the top of the file"),
    "api": (ApiKeys, "in `api`"),
    "defaults": (PolicyKeys, "in `defaults`, a policy or a server"),
    "policies": (PolicyKeys, "in `defaults`, a policy or a server"),
    "servers": (ServerKeys, "in a server"),
}
_DEPTHS = {"api": 2, "defaults": 2, "policies": 3, "servers": 3}
"""How long the paths of the values are that can be left out one by one."""


class Findings:
    """The mistakes found in one file so far, and the places that were refused, so that none is blamed twice."""

    def __init__(self, source: str, document: Document) -> None:
        self._source = source
        self._document = document
        self._mistakes: dict[tuple[int, int, str], Mistake] = {}
        self._refused: set[KeyPath] = set()

    def add(self, path: KeyPath, message: str, *, at_key: bool = False) -> None:
        """Refuse what stands at `path`; a path that is not in the file is shown at what is around it."""
        place = self._document.key_place(path) if at_key else self._document.place(path)
        self._add_at(place, path, message)

    def add_flaw(self, flaw: Flaw) -> None:
        self._add_at((flaw.line, flaw.column), flaw.path, flaw.message, refuse=flaw.lost)

    def _add_at(self, place: tuple[int, int], path: KeyPath, message: str, *, refuse: bool = True) -> None:
        line, column = place
        text = printable(redacted(message))[:_LONGEST_MESSAGE]
        where = redacted(shown_path(path))
        mistake = Mistake(source=self._source, line=line, column=column, path=where, message=text)
        # What an alias repeats stands in one place, and is one mistake.
        self._mistakes.setdefault((line, column, text), mistake)
        if refuse:
            self.distrust(path)

    def distrust(self, path: KeyPath) -> None:
        """Take nothing for missing or wrong that depends on `path`: it has been answered already."""
        self._refused.add(path)

    def trusts(self, *path: str | int) -> bool:
        return not any(path[:length] in self._refused for length in range(len(path) + 1))

    def end(self, text: str) -> None:
        """Raises ConfigError with all mistakes, in the order of the file, if there are any."""
        if self._mistakes:
            raise ConfigError([self._mistakes[key] for key in sorted(self._mistakes)], text)


def read_shape(document: Document, findings: Findings) -> FileKeys | None:
    """The keys of the file, less those that were refused; None where there is nothing to go on with."""
    for flaw in document.flaws:
        findings.add_flaw(flaw)
    value = document.value()
    if not isinstance(value, dict):
        _refuse_root(document, findings)
        return None
    for flaw in document.flaws:
        if flaw.lost:
            findings.distrust(_leave_out(value, flaw.path))
    while True:
        try:
            return FILE.validate_python(value)
        except ValidationError as error:
            _refuse_all(error.errors(include_url=False), value, document, findings)


def _refuse_root(document: Document, findings: Findings) -> None:
    if document.flaws:
        return
    if document.root is None or document.root.written in ("", "~", "null"):
        findings.add((), "the file is empty: list at least one server under `servers`")
    else:
        findings.add((), f"should be a mapping with `servers` in it, not {_written(document, ())}")


def _refuse_all(errors: Iterable[ErrorDetails], value: dict[str, Any], document: Document, findings: Findings) -> None:
    limit = value.get("limit", PROVIDER_LIMIT)
    sound = type(limit) is int and 2 <= limit <= LARGEST_LIMIT
    for error in errors:
        path = tuple(step for step in error["loc"] if step not in TAGS and step != "[key]")
        if error["type"] == "extra_forbidden":
            _refuse_key(path, findings)
        else:
            at_key = "[key]" in error["loc"]
            findings.add(path, _sentence(error, path, document, limit if sound else LARGEST_LIMIT), at_key=at_key)
        findings.distrust(_leave_out(value, path))


def _leave_out(value: dict[str, Any], path: KeyPath) -> KeyPath:
    """Take away the policy key, setting or server that `path` is in; its own path."""
    left_out = path[: _DEPTHS.get(str(path[0]), 1)]
    *above, last = left_out
    around: Any = value
    for step in above:
        if isinstance(around, dict):
            around = around.get(step)
        elif isinstance(around, list) and isinstance(step, int) and step < len(around):
            around = around[step]
    if isinstance(around, dict):
        around.pop(last, None)
    elif isinstance(around, list) and isinstance(last, int) and last < len(around):
        around[last] = {}
    return left_out


# --- Sentences ---------------------------------------------------------------------------------------------------


def _refuse_key(path: KeyPath, findings: Findings) -> None:
    *around, key = path
    name, allowed, section = str(key), keys_at(tuple(around)), str(around[0]) if around else ""
    if name.lower() in _SECRET_KEYS:
        findings.add(path, _INLINE, at_key=True)
        return
    known = _SYNONYMS.get(name, name)
    meant = known if known in allowed else nearest(name, allowed)
    elsewhere = None if known in allowed else _place_of(known, section)
    if elsewhere:
        message = f"unknown key here: `{known}` belongs {elsewhere}"
    elif meant in allowed:
        findings.distrust((*around, meant))
        message = f"unknown key, did you mean `{meant}`?"
    else:
        message = "unknown key"
    findings.add(path, f"{message} (allowed here: {', '.join(allowed)})", at_key=True)


def keys_at(path: KeyPath) -> tuple[str, ...]:
    """The keys that are allowed in the mapping at `path`."""
    if path and path[-1] == "keep":
        return tuple(RetentionKeys.__annotations__)
    shape, _ = _SECTIONS[str(path[0]) if path else ""]
    return tuple(shape.__annotations__)


def _place_of(name: str, section: str) -> str | None:
    """Where a key of this very name is allowed, if elsewhere."""
    for other, (shape, words) in _SECTIONS.items():
        if other != section and name in shape.__annotations__:
            return words
    return None


def nearest(word: str, words: Collection[str]) -> str | None:
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.5)
    return close[0] if close else None


_EXPECTED = {
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a number",
    "string_type": "should be text",
    "dict_type": "should be a mapping of keys to values",
    "list_type": "should be a list",
    "too_short": "is an empty list: give it at least one value",
    "greater_than_equal": "should be {ge} or more",
    "less_than_equal": "should be {le} or less",
    "less_than": "should be less than {lt}",
}
_CRONTAB_EXPECTED = 'should be crontab text such as "30 3 * * *", or a list of such'
_BOOLEAN_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _sentence(error: ErrorDetails, path: KeyPath, document: Document, limit: int) -> str:
    """What a value should be, and what it is instead."""
    expected = _expected(error, path, limit)
    if not expected.startswith("should"):
        return expected
    if error["input"] is None:
        return f"has no value: it {expected}"
    return f"{expected}, not {_written(document, path)}{_hint(error, path, document)}"


def _expected(error: ErrorDetails, path: KeyPath, limit: int) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if path[-1] == "keep":
        return keep_expected(limit)
    if path == ("own_server",):
        return f"should be {OWN_SERVER}"
    if path[-1] == "id":
        return "should be a server's id: a whole number from 1 on, or text"
    if kind.startswith("union_tag"):
        return _CRONTAB_EXPECTED
    if kind == "enum":
        return f"should be one of {context['expected'].replace(chr(39), '`')}"
    if kind == "dict_type" and path[0] == "servers":
        return "should be a mapping such as {id: 12345, policy: nightly}"
    return _EXPECTED.get(kind, "should be something else").format(**context)


def keep_expected(limit: int) -> str:
    most = f"{limit - 1} (`limit` less 1)"
    return f"should be a whole number from 1 to {most}, or rules such as {{last: 2, daily: 1}}"


def _hint(error: ErrorDetails, path: KeyPath, document: Document) -> str:
    kind, value, written = error["type"], error["input"], document.written(path)
    if kind == "bool_type" and str(value).lower() in _BOOLEAN_WORDS:
        return f": write {_BOOLEAN_WORDS[str(value).lower()]}"
    if kind == "string_type" and not isinstance(value, dict | list):
        return ": put it in quotes"
    if kind in ("int_type", "float_type", "union_tag_invalid") and re.fullmatch('"[0-9.]+"', written):
        return ": leave out the quotes"
    if kind == "list_type" and isinstance(value, str) and path[-1] in ("adopt", "allowed_hosts"):
        return f": write [{printable(written)[:60]}]"
    if kind == "enum" and isinstance(value, str):
        meant = nearest(value, re.findall("'([^']*)'", error["ctx"]["expected"]))
        return f": did you mean `{meant}`?" if meant else ""
    return ""


def _written(document: Document, path: KeyPath) -> str:
    written = document.written(path)
    if written in ("a list", "a mapping"):
        return written
    return f"`{written if len(written) <= 60 else written[:57] + '...'}`"


# --- Showing -----------------------------------------------------------------------------------------------------


def shown_path(path: KeyPath) -> str:
    """A place within the file as people write it: `servers[0].keep`, `policies["a b"].keep`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w<?-]+", step):
            text += f".{step}"
        else:
            text += f'["{printable(step)[:60]}"]'
    return text.removeprefix(".")


def printable(text: str) -> str:
    """Without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else " " if char in "\t\n" else "·" for char in text)


def redacted(text: str) -> str:
    """With whatever looks like a token or a password starred out, at its own length."""
    return _SECRETS.sub(_starred, text)


def _starred(found: re.Match[str]) -> str:
    kept = found[1] or found[2]
    return kept + "*" * (len(found[0]) - len(kept))


def _line_shown(text: str) -> str:
    """A line of the file without its secrets, whatever they look like."""
    line = _SECRET_LINE.sub(lambda found: found[1] + "*" * len(found[2]), text)
    return printable(redacted(line))


def render_mistake(mistake: Mistake, text: str, *, colour: bool = False) -> str:
    """The mistake, and below it the line of the file (whose content is `text`) with a caret under the place."""
    lines = lines_of(text)
    if mistake.line is None or mistake.column is None or not text or mistake.line > len(lines):
        return str(mistake)
    line, column = _line_shown(lines[mistake.line - 1]), mistake.column - 1
    start = max(0, column - 60)
    number = f"{mistake.line:>5}"
    caret, head = f"{' ' * (column - start)}^", str(mistake)
    if colour:
        caret, head = f"\033[1;31m{caret}\033[0m", f"\033[1m{head}\033[0m"
    return f"{head}\n{number} | {line[start : start + 100]}\n{' ' * len(number)} | {caret}"
