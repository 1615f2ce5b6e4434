"""The values of a file held to its shape, a part at a time.

Whoever writes the file is not to stop the daemon with it: no step here keeps the rest of the process waiting for long,
whatever the file holds. pydantic lets nobody else run before it has judged all that it was given, and has put every
mistake into a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from snaprotd.config.channels import SHAPES
from snaprotd.config.mistakes import WITHIN, Findings, keys_at, refuse_key, sentence, written
from snaprotd.config.shape import FILE, LARGEST_LIMIT, TAGS, FileKeys
from snaprotd.config.text.document import Document, KeyPath
from snaprotd.core.model import PROVIDER_LIMIT

AT_ONCE = 100
"""Entries that are judged in one step."""

LONGEST_LIST = 1000
"""Values of one key."""

_PARTS: Mapping[str, TypeAdapter[Any]] = {
    key: TypeAdapter(get_type_hints(FileKeys, include_extras=True)[key]) for key in ("policies", "servers")
}
"""The keys of the file that may be long: `policies` is a mapping, `servers` a list."""

_WITHIN = ("keep", *SHAPES)
"""Keys whose values may be mappings of keys of ours."""

_DEPTHS = {"api": 2, "notify": 2, "defaults": 2, "policies": 3, "servers": 3}
"""How long the paths of the values are that can be left out one by one."""


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
    for path, mapping in _mappings(value):
        _refuse_too_much(path, mapping, value, findings)
    judge = _Judge(value, document, findings)
    keys: Any = judge.judged(FILE, judge.head, lambda path: path)
    for part, entries in (("policies", judge.policies), ("servers", judge.servers)):
        if part in keys:
            keys[part] = entries()
    return cast("FileKeys", keys)


def _refuse_root(document: Document, findings: Findings) -> None:
    if document.flaws:
        return
    if document.root is None or document.root.written in ("", "~", "null"):
        findings.add((), "the file is empty: list at least one server under `servers`")
    else:
        findings.add((), f"should be a mapping with `servers` in it, not {written(document, ())}")


class _Judge:
    """One file's values, of which those that are refused are left out one by one."""

    def __init__(self, value: dict[str, Any], document: Document, findings: Findings) -> None:
        self._value = value
        self._document = document
        self._findings = findings

    def head(self) -> dict[str, Any]:
        """All that is no long part; of those only that they are of the right type."""
        return {key: type(part)() if _is_long(key, part) else part for key, part in self._value.items()}

    def policies(self) -> dict[str, Any]:
        policies = self._value["policies"]
        names, judged = iter(list(policies)), dict[str, Any]()
        while some := list(islice(names, AT_ONCE)):
            judged |= self.judged(_PARTS["policies"], partial(_those, policies, some), lambda path: ("policies", *path))
        return judged

    def servers(self) -> list[Any]:
        servers, judged = self._value["servers"], list[Any]()
        for start in range(0, len(servers), AT_ONCE):
            take = partial(servers.__getitem__, slice(start, start + AT_ONCE))
            judged += self.judged(_PARTS["servers"], take, partial(_among_servers, start))
        return judged

    def judged(self, shape: TypeAdapter[Any], take: Callable[[], Any], place: Callable[[KeyPath], KeyPath]) -> Any:
        """What `take` gives, less what is refused; `place` is where in the file a place within that is."""
        while True:
            try:
                return shape.validate_python(take())
            except ValidationError as error:
                self._refuse_all(error.errors(include_url=False), place)

    def _refuse_all(self, errors: Iterable[ErrorDetails], place: Callable[[KeyPath], KeyPath]) -> None:
        limit = self._value.get("limit", PROVIDER_LIMIT)
        sound = type(limit) is int and 2 <= limit <= LARGEST_LIMIT
        for error in errors:
            path = place(tuple(step for step in error["loc"] if step not in TAGS and step != "[key]"))
            if self._findings.is_full:
                words = "should be something else"
            else:
                words = sentence(error, path, self._document, limit if sound else LARGEST_LIMIT)
            self._findings.add(path, words, at_key="[key]" in error["loc"])
            self._findings.distrust(_leave_out(self._value, path))


def _is_long(key: str, part: object) -> bool:
    return (key == "policies" and isinstance(part, dict)) or (key == "servers" and isinstance(part, list))


def _those(mapping: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}


def _among_servers(start: int, path: KeyPath) -> KeyPath:
    index, *rest = path
    return ("servers", start + int(index), *rest)


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


# -- what pydantic is not even shown: of it there may be as much as the file holds ------------------------------------


def _mappings(value: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Each mapping of the file that has keys of ours, with its place."""
    policies = value.get("policies")
    places: list[tuple[KeyPath, Any]] = [
        ((), value),
        *(((key,), value.get(key)) for key in ("api", "heartbeat", "metrics", "defaults")),
    ]
    places += [(("policies", name), one) for name, one in policies.items()] if isinstance(policies, dict) else []
    for key in ("servers", "notify"):
        entries = value.get(key)
        places += [((key, index), one) for index, one in enumerate(entries)] if isinstance(entries, list) else []
    return ((path, mapping) for path, mapping in places if isinstance(mapping, dict))


def _refuse_too_much(path: KeyPath, mapping: dict[str, Any], value: dict[str, Any], findings: Findings) -> None:
    """Refuse keys that are not known, and lists that are too long."""
    _refuse_unknown(path, mapping, value, findings)
    for key in [key for key in WITHIN if key in mapping] if path else ():
        if isinstance(mapping[key], dict):
            _refuse_unknown((*path, key), mapping[key], value, findings)
    for key, held in [(key, held) for key, held in mapping.items() if isinstance(held, list)]:
        if len(held) > LONGEST_LIST and not _is_long(key, held):
            findings.add((*path, key), f"has {len(held)} values: {LONGEST_LIST} at most")
            findings.distrust(_leave_out(value, (*path, key)))


_OF_A_SERVER = frozenset(keys_at(("servers", 0)))
"""There are thousands of them."""


def _refuse_unknown(path: KeyPath, mapping: dict[str, Any], value: dict[str, Any], findings: Findings) -> None:
    is_server = len(path) == 2 and path[0] == "servers"
    allowed = _OF_A_SERVER if is_server else frozenset(keys_at(path))
    for key in [key for key in mapping if key not in allowed]:
        refuse_key((*path, key), findings)
        findings.distrust(_leave_out(value, (*path, key)))
