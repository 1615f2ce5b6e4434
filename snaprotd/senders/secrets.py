"""The files that hold addresses and passwords: read when they are needed, again when they change, and never shown."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import kind_of_file
from snaprotd.logs import redactor

LONGEST = 4096
"""Bytes of a file."""
SHORTEST = 8
"""Letters of a password or a key: a shorter one could not be kept out of a log by its value."""


class SecretError(SnaprotdError):
    """A file holds nothing that can be used. The text says which and why, and quotes nothing of it."""


def nothing_is(text: str) -> bool:
    """For where no token is known."""
    return False


class Secrets:
    """All such files of one process. What they hold, and held before, is hidden from everything that is written."""

    def __init__(
        self, folders: Sequence[Path], *, is_token: Callable[[str], bool] = nothing_is, whose: str = "channels"
    ) -> None:
        """Files lie in these folders, wherever links lead. What `is_token` recognizes is the API token: never sent.

        `whose` they are keeps them apart from others in what is hidden.
        """
        self._folders = [Path(os.path.realpath(folder)) for folder in folders]
        self._is_token = is_token
        self._files: dict[Path, SecretFile] = {}
        redactor.hide(self.hidden, whose)

    def file(self, path: Path) -> SecretFile:
        return self._files.setdefault(path, SecretFile(path, self))

    def hidden(self) -> tuple[str, ...]:
        """What must not be shown."""
        if not self._files:  # as it mostly is, and it is asked for each text
            return ()
        return tuple(secret for file in self._files.values() for secret in file.hidden)

    def refuse(self, path: Path, text: str) -> None:
        """Raises `SecretError` for what may not be used. A link may lead elsewhere by now."""
        if not any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in self._folders):
            places = ", ".join(map(str, self._folders))
            raise SecretError(f"{path} leads out of the folders in which such files may lie: {places}")
        if self._is_token(text) or redactor.is_likely_in(text):
            raise SecretError(
                f"{path} holds what looks like the API token: it may go nowhere but to the provider's API"
            )


class SecretFile:
    """One file, and what was read in it last."""

    def __init__(self, path: Path, secrets: Secrets) -> None:
        self.path = path
        self.hidden: tuple[str, ...] = ()
        self._secrets = secrets
        self._text = ""
        self._stamp: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r})"

    async def password(self) -> str:
        """A password or a key as of now. Raises `SecretError`."""
        return await asyncio.to_thread(self._read, _checked_password)

    async def url(self) -> str:
        """An http or https URL as of now. Raises `SecretError`."""
        return await asyncio.to_thread(self._read, _checked_url)

    def _read(self, check: Callable[[Path, str], tuple[str, ...]]) -> str:
        """A file that is missing or half written for a moment leaves in force what was read before."""
        stamp = _stamp(self.path)
        if self._text and stamp == self._stamp:
            return self._text
        try:
            text = _content(self.path).strip()
            self._secrets.refuse(self.path, text)
            hidden = check(self.path, text)
        except SecretError:
            if self._text and not stamp:
                return self._text
            raise
        self.hidden = tuple(dict.fromkeys((*hidden, *self.hidden)))[:8]
        self._text, self._stamp = text, stamp
        return text


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or a link on the way to it; empty where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _content(path: Path) -> str:
    """The text of a file. What is none is not even opened: a pipe without a writer would be waited for."""
    try:
        _refuse_no_file(path, os.stat(path).st_mode)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
            _refuse_no_file(path, mode)  # it may be another one by now
            content = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        raise SecretError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if mode & stat.S_IWOTH:
        raise SecretError(f"{path} can be written by every user of this machine: run chmod 600 {path}")
    if len(content) > LONGEST:
        raise SecretError(f"{path} is longer than {LONGEST} bytes: it should hold one secret and nothing else")
    return content.decode("utf-8", "replace")


def _refuse_no_file(path: Path, mode: int) -> None:
    if kind := kind_of_file(mode):
        raise SecretError(f"{path} is {kind}, not a file")


def _checked_password(path: Path, text: str) -> tuple[str, ...]:
    if len(text) < SHORTEST or not text.isprintable() or "\ufffd" in text:
        raise SecretError(f"{path} should hold one line of at least {SHORTEST} letters, and nothing else")
    return (text,)


def _checked_url(path: Path, text: str) -> tuple[str, ...]:
    """What of the URL is secret: not the parts that thousands of URLs have, which are in many an honest sentence."""
    try:
        url = urlsplit(text)
        is_sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or re.search(r"[^\x21-\x7e]", text) or "#" in text or "\\" in text:
        raise SecretError(f"{path} should hold one URL, https://... or http://..., and nothing else")
    return _secret_parts(url)


def _secret_parts(url: SplitResult) -> tuple[str, ...]:
    parts, values = url.path.split("/"), [value for _, value in parse_qsl(url.query) if len(value) >= SHORTEST]
    random = [part for part in parts if len(part) >= SHORTEST and re.search(r"\d|[a-z][A-Z]|[A-Z][a-z]", part)]
    known = [*random, *values] or [max(parts, key=len)]
    hidden = [*known, *(unquote(one or "") for one in (url.username, url.password))]
    return tuple(part for part in hidden if len(part) >= SHORTEST)
