"""What is wrong with a configuration file, as plain sentences, each at its place, none with a secret in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any
from zoneinfo import available_timezones

from pydantic_core import ErrorDetails

from snaprotd.config.channels import SHAPES, NotifyKeys
from snaprotd.config.shape import (
    OWN_SERVER,
    ApiKeys,
    FileKeys,
    HeartbeatKeys,
    MetricsKeys,
    PolicyKeys,
    RetentionKeys,
    RetryKeys,
    ServerKeys,
)
from snaprotd.config.text.document import Document, Flaw, KeyPath
from snaprotd.config.text.yaml_nodes import lines_of
from snaprotd.core.errors import ConfigError, Mistake
from snaprotd.core.words import printable

_SECRETS = re.compile(r"(vps_)[A-Za-z0-9_-]{8,}")
"""A token of the provider."""
_SHOWN_OF_LINE = 72
"""Letters of a line that are shown after its number, in 80 columns: the caret stands under its place."""
_BLANK = str.maketrans("\t\n", "  ")
"""What may stand in a file without any harm, and is shown as a blank."""
_WORD = re.compile(r"\S+")
_SECRET_LINE = re.compile(r"""((?i:token|password|secret|api_?key|\burl)["']?\s*:\s*)(\S.*)""")
_LONGEST_MESSAGE = 1000
_LONGEST_READ = 64 * 1024
"""Letters of a message that are looked at for secrets; no more than the first of them are shown."""
_MOST_COMPARED = 100
"""Words of the file that one word is compared with: a hundred mistakes are, and each comparison takes a while."""
MOST_SHOWN = 100
"""Mistakes of one file that are put into words; of those that are found after them only the number is told."""
_SECRET_KEYS = frozenset(("token", "api_token", "access_token", "api_key", "apikey", "password", "secret"))
_INLINE = (
    "the API token does not belong in this file: put it alone into another one and name that with `api.token_file` or "
    "$SNAPROTD_TOKEN_FILE, or set $VPS_API_TOKEN"
)
_APART = (
    "a secret does not belong in this file: put it alone into another one, which only the user that runs snaprotd may "
    "read, and name that with `{key}_file`"
)
_APART_KEYS = frozenset(("url", "secret", "password"))
_SYNONYMS = {"cron": "schedule", "retention": "keep", "tz": "timezone", "server_id": "id", "label": "name"}
_SYNONYMS |= {"url": "base_url", "disabled": "paused", "rate_limit": "requests_per_second"}
_SECTIONS: Mapping[str, tuple[type, str]] = {
    "": (FileKeys, "at the top of the file"),
    "api": (ApiKeys, "in `api`"),
    "notify": (NotifyKeys, "in an entry of `notify`"),
    "heartbeat": (HeartbeatKeys, "in `heartbeat`"),
    "metrics": (MetricsKeys, "in `metrics`"),
    "defaults": (PolicyKeys, "in `defaults`, a policy or a server"),
    "policies": (PolicyKeys, "in `defaults`, a policy or a server"),
    "servers": (ServerKeys, "in a server"),
}


class Findings:
    """The mistakes found in one file so far, and the places that were refused, so that none is blamed twice."""

    def __init__(self, source: str, document: Document) -> None:
        self._source = source
        self._document = document
        self._mistakes: list[Mistake] = []
        self._found: set[tuple[int, int, str]] = set()
        """Every mistake, by its place; what an alias repeats stands in one place, and is one mistake."""
        self._refused: set[KeyPath] = set()

    def add(self, path: KeyPath, message: str, *, at_key: bool = False) -> None:
        """Refuse what stands at `path`; a path that is not in the file is shown at what is around it."""
        place = self._document.key_place(path) if at_key else self._document.place(path)
        self._add_at(place, path, message)

    def add_flaw(self, flaw: Flaw) -> None:
        self._add_at((flaw.line, flaw.column), flaw.path, flaw.message, refuse=flaw.lost)

    def _add_at(self, place: tuple[int, int], path: KeyPath, message: str, *, refuse: bool = True) -> None:
        if refuse:
            self.distrust(path)
        line, column = place
        mistake = (line, column, message[:_LONGEST_MESSAGE])
        if mistake in self._found:
            return
        self._found.add(mistake)
        if len(self._mistakes) < MOST_SHOWN:
            text = printable(redacted(message[:_LONGEST_READ]).translate(_BLANK), _LONGEST_MESSAGE)
            where = redacted(shown_path(path))
            self._mistakes.append(Mistake(source=self._source, line=line, column=column, path=where, message=text))

    @property
    def is_full(self) -> bool:
        """What is found from now on is only counted: it needs no words."""
        return len(self._mistakes) >= MOST_SHOWN

    def distrust(self, path: KeyPath) -> None:
        """Take nothing for missing or wrong that depends on `path`: it has been answered already."""
        self._refused.add(path)

    def trusts(self, *path: str | int) -> bool:
        return not any(path[:length] in self._refused for length in range(len(path) + 1))

    def dismantle(self) -> None:
        """As of a document."""
        for found in (self._found, self._refused):
            while found:
                found.pop()

    def end(self, text: str) -> None:
        """Raises ConfigError, with the mistakes in the order of the file, if there are any."""
        if self._mistakes:
            shown = sorted(self._mistakes, key=lambda one: (one.line or 0, one.column or 0, one.message))
            raise ConfigError(shown, text, more=len(self._found) - len(shown))


# --- Sentences ---------------------------------------------------------------------------------------------------


def refuse_key(path: KeyPath, findings: Findings) -> None:
    """Refuse a key that is not known at its place, and say what may have been meant."""
    if findings.is_full:
        findings.add(path, "unknown key", at_key=True)
        return
    *around, key = path
    name, allowed, section = str(key), keys_at(tuple(around)), str(around[0]) if around else ""
    if name.lower() in _APART_KEYS and f"{name.lower()}_file" in allowed:
        findings.add(path, _APART.format(key=name.lower()), at_key=True)
        findings.distrust(path[:-1])
        return
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
    inner = WITHIN.get(str(path[-1])) if path else None
    if inner is not None and path[:-1] != ("policies",):
        return tuple(inner.__annotations__)
    shape, _ = _SECTIONS[str(path[0]) if path else ""]
    return tuple(shape.__annotations__)


WITHIN: Mapping[str, Any] = {"keep": RetentionKeys, "retry": RetryKeys, **SHAPES}
"""What a mapping may hold that is under a key of a policy, or says how somebody is told."""


def _place_of(name: str, section: str) -> str | None:
    """Where a key of this very name is allowed, if elsewhere."""
    for other, (shape, words) in _SECTIONS.items():
        if other != section and name in shape.__annotations__:
            return words
    return None


def nearest(word: str, words: Collection[str]) -> str | None:
    """The one of the words that is spelled most like this one; none where there are too many to look at."""
    if len(words) > _MOST_COMPARED:
        return None
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
    "too_long": "has {actual_length} values: {max_length} at most",
    "greater_than_equal": "should be {ge} or more",
    "less_than_equal": "should be {le} or less",
    "less_than": "should be less than {lt}",
}
_CRONTAB_EXPECTED = 'should be crontab text such as "30 3 * * *", or a list of such'
_WINDOW_EXPECTED = 'should be a window such as "01:00-06:00", or a list of such'
_BOOLEAN_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def sentence(error: ErrorDetails, path: KeyPath, document: Document, limit: int) -> str:
    """What a value should be, and what it is instead."""
    expected = _expected(error, path, limit)
    if not expected.startswith("should"):
        return expected
    if error["input"] is None:
        return f"has no value: it {expected}"
    return f"{expected}, not {written(document, path)}{_hint(error, path, document)}"


def _expected(error: ErrorDetails, path: KeyPath, limit: int) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return f"{context['error']}{_zone_hint(error['input']) if path[-1] == 'timezone' else ''}"
    if path[-1] == "keep":
        return keep_expected(limit)
    if path == ("own_server",):
        return f"should be {OWN_SERVER}"
    if path[-1] == "id":
        return "should be a server's id: a whole number from 1 on, or text"
    if kind.startswith("union_tag"):
        return _WINDOW_EXPECTED if path[-1] == "window" else _CRONTAB_EXPECTED
    if kind == "enum":
        return f"should be one of {context['expected'].replace(chr(39), '`')}"
    if kind == "dict_type" and path[-1] == "retry":
        return "should be a mapping such as {times: 2, after: 30m}; {times: 0} for none"
    if kind == "dict_type" and path[0] == "servers":
        return "should be a mapping such as {id: 12345, policy: nightly}"
    return _EXPECTED.get(kind, "should be something else").format(**context)


def _zone_hint(name: str) -> str:
    close = difflib.get_close_matches(name, available_timezones(), n=1)
    return f", did you mean `{close[0]}`?" if close else ": use an IANA name such as Europe/Berlin"


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
        return f": write [{printable(written.translate(_BLANK), 60)}]"
    if kind == "enum" and isinstance(value, str):
        meant = nearest(value, re.findall("'([^']*)'", error["ctx"]["expected"]))
        return f": did you mean `{meant}`?" if meant else ""
    return ""


def written(document: Document, path: KeyPath) -> str:
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
            text += f'["{printable(step.translate(_BLANK), 60)}"]'
    return text.removeprefix(".")


def redacted(text: str) -> str:
    """With whatever looks like a token or a password starred out, at its own length."""
    return _WORD.sub(_without_user, _SECRETS.sub(_starred, text))


def _starred(found: re.Match[str]) -> str:
    return found[1] + "*" * (len(found[0]) - len(found[1]))


def _without_user(found: re.Match[str]) -> str:
    """A word without the name and the password of a URL in it; in one pass, however many slashes it has."""
    rest, at, host = found[0].rpartition("@")
    before, slashes, user = rest.partition("//")
    return f"{before}{slashes}{'*' * len(user)}{at}{host}"


def _line_shown(text: str) -> str:
    """A line of the file without its secrets, whatever they look like."""
    line = _SECRET_LINE.sub(lambda found: found[1] + "*" * len(found[2]), text)
    return printable(redacted(line).translate(_BLANK), len(line))  # so long as it is: a caret stands under it


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
    return f"{head}\n{number} | {line[start : start + _SHOWN_OF_LINE]}\n{' ' * len(number)} | {caret}"
