"""Where the API token comes from. It is read again when its file changes, and never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snaprotd.core.errors import SnaprotdError

LONGEST = 4096
"""Bytes of the longest token that is believed; a larger file is something else."""

_Stamp = tuple[int, int, int]


class TokenError(SnaprotdError):
    """There is no usable token. The text says where it was looked for, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token, and where it was found. Its text is in no repr."""

    text: str
    origin: str

    def __repr__(self) -> str:
        return f"Token(text='[token]', origin={self.origin!r})"

    __str__ = __repr__


class TokenSource:
    """The token of the place that `token_source` chose."""

    def __init__(self, token: Token, path: Path | None = None, stamp: _Stamp | None = None) -> None:
        self._token = token
        self._path = path
        self._stamp = stamp
        self._earlier: str | None = None

    def __repr__(self) -> str:
        return f"TokenSource({self._token!r})"

    @property
    def origin(self) -> str:
        """Where the token comes from, in words."""
        return self._token.origin

    def get(self) -> str:
        """The token as of now: its file is read again where it has changed."""
        if self._path is not None and _stamp(self._path) != self._stamp:
            self.refresh()
        return self._token.text

    def refresh(self) -> bool:
        """Read the token again at once; True if it is another one.

        Where the file is missing or half written just now, the token known so far stays in force and the file is
        tried again next time: the provider is the judge of a token, not the moment of a look.
        """
        if self._path is None or self._stamp is None:
            return False
        stamp = _stamp(self._path)
        try:
            token = _read(self._path, self.origin)
        except TokenError:
            return False
        changed = token.text != self._token.text
        if changed:
            self._earlier = self._token.text
        self._token, self._stamp = token, stamp
        return changed

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown: the token, and the one before it, which may still be valid."""
        return (self._token.text,) if self._earlier is None else (self._token.text, self._earlier)

    def warnings(self) -> list[str]:
        """Sentences about a token that works but is not well kept."""
        try:
            mode = self._path.stat().st_mode if self._path is not None else 0
        except OSError as error:
            return [f"{self.origin} can no longer be read ({error.strerror}): the token read before is still used"]
        if mode & stat.S_IROTH and stat.S_ISREG(mode):
            return [f"{self.origin} can be read by every user of this machine: run chmod 600 {self._path}"]
        return []


def token_source(token_file: Path | None, environ: Mapping[str, str]) -> TokenSource:
    """The token of the first place that is set.

    They are `api.token_file`, $SNAPROTD_TOKEN_FILE, $CREDENTIALS_DIRECTORY/token and $VPS_API_TOKEN. The token is
    read once here. Raises `TokenError` where no place is set, or where the chosen one holds no usable token: a place
    that was named is never passed over in silence.
    """
    if token_file is not None:
        return _from_file(token_file, f"the token file {token_file}")
    if named := environ.get("SNAPROTD_TOKEN_FILE"):
        return _from_file(Path(named), f"the token file {named} ($SNAPROTD_TOKEN_FILE)")
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(directory, "token")
        if path.exists():
            return _from_file(path, f"the token file {path} ($CREDENTIALS_DIRECTORY)")
    if text := environ.get("VPS_API_TOKEN"):
        return TokenSource(_checked(text, "the environment variable VPS_API_TOKEN"))
    raise TokenError(
        "no API token: api.token_file, $SNAPROTD_TOKEN_FILE, $CREDENTIALS_DIRECTORY/token and $VPS_API_TOKEN are all"
        " unset; write the token to a file that only this user can read and name that file in api.token_file"
    )


def _from_file(path: Path, origin: str) -> TokenSource:
    # The stamp is taken before the content: a change between the two is then seen as one.
    stamp = _stamp(path)
    return TokenSource(_read(path, origin), path, stamp)


def _stamp(path: Path) -> _Stamp | None:
    """What changes when a file does; None for what is no file: a pipe (`<(pass vps)`) can be read only once."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _read(path: Path, origin: str) -> Token:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise TokenError(
            f"{origin} cannot be read: {error.strerror}; create it, or make it readable for the user snaprotd runs as"
        ) from error
    if len(content) > LONGEST:
        raise TokenError(f"{origin} is longer than {LONGEST} bytes: it should hold the token and nothing else")
    return _checked(content.decode("utf-8", "replace"), origin)


def _checked(text: str, origin: str) -> Token:
    """The token without the white space around it. The message of a mistake never quotes it."""
    text = text.strip()
    if not text:
        raise TokenError(f"{origin} is empty: it should hold the API token")
    if any(character.isspace() for character in text):
        raise TokenError(
            f"{origin} holds more than one word: it should hold the token alone, without `Bearer` or a name"
        )
    if not all("!" <= character <= "~" for character in text):
        raise TokenError(f"{origin} holds characters that no token has: copy the token again, as plain ASCII text")
    return Token(text=text, origin=origin)
