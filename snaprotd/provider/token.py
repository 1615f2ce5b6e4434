"""Where the API token comes from. It is read again when its file changes, and never shown."""

from __future__ import annotations

import os
import re
import select
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import kind_of_file

log = structlog.get_logger("snaprotd.token")

LONGEST = 4096
"""Bytes of the longest token that is believed; a larger file is something else."""

SHORTEST = 8
"""Letters of the shortest one: what is shorter is a slip, and could not be kept out of a log by its value either."""

PIPE_PATIENCE = 5.0
"""Seconds in which a pipe has to give its token, and to end."""

TRIED_ANEW_AFTER = 10
"""Requests that are signed with another place's token before the first one has a turn again: that it was refused may
have been a moment's, and the other one may be another account's."""


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


class _Place:
    """One place for a token, and what was read there last."""

    def __init__(self, origin: str, path: Path | None = None, *, text: str = "", pipes: bool = False) -> None:
        """`text` is what stands in a variable of the environment, where there is no `path`.

        `pipes`: the path may be a pipe's, which gives its token once.
        """
        self.origin = origin
        self.path = path
        self.status: os.stat_result | None = None
        """Of the file, as it was read last."""
        self._pipes = pipes
        self.token: Token | None = None
        self.secrets: tuple[str, ...] = ()
        self._text = text
        self._stamp: tuple[int, ...] | None = None
        self._told = ""

    def __repr__(self) -> str:
        return f"_Place({self.token or self.origin!r})"

    def read(self) -> None:
        """Raises `TokenError` where there is no usable token now; what was read before stays as it is."""
        if self._is_used_up:
            return
        # The stamp is taken before the content: a change between the two is then seen as one.
        stamp = _stamp(self.path) if self.path else None
        if self.path is None:
            token = _checked(self._text, self.origin)
        else:
            token, self.status = _read(self.path, self.origin, pipes=self._pipes)
        if self.token is None or self.token.text != token.text:
            self.secrets = (token.text, *self.secrets[:1])
        self.token, self._stamp, self._told = token, stamp, ""

    def get(self) -> str | None:
        """The token as of now: its file is read again where it has changed. None where there never was one.

        Where the file is missing or half written just now, the token known so far stays in force and the file is
        tried again next time: the provider is the judge of a token, not the moment of a look.
        """
        if self.path is None or self._is_used_up:
            return self.known
        if self.token is None or _stamp(self.path) != self._stamp:
            self.read_if_possible()
        return self.known

    @property
    def _is_used_up(self) -> bool:
        """It was a pipe, and has given what it had."""
        return self.status is not None and not stat.S_ISREG(self.status.st_mode)

    @property
    def known(self) -> str | None:
        """The token as it was read last."""
        return None if self.token is None else self.token.text

    def read_if_possible(self) -> None:
        """Where it is not, that is told once: the token read before works, and the next start would have none."""
        try:
            self.read()
        except TokenError as error:
            if self.token is not None and str(error) != self._told:
                log.warning("the API token cannot be read again: the one read before is still used", error=str(error))
            self._told = str(error)


class TokenSource:
    """The token of one place; of several, the first that the provider does not refuse."""

    def __init__(self, *places: _Place) -> None:
        self._places = places
        self._at = 0
        self._signed = 0

    def __repr__(self) -> str:
        return f"TokenSource({', '.join(map(repr, self._places))})"

    @property
    def origin(self) -> str:
        """Where the token comes from, in words."""
        return self._places[self._at].origin

    def get(self) -> str:
        """The token as of now."""
        self._signed += 1
        if self._signed > TRIED_ANEW_AFTER:
            self._begin_at(0)
        for _ in self._places:
            token = self._places[self._at].get()
            if token is not None:
                return token
            self._begin_at(self._at + 1)
        raise TokenError(f"{self.origin} cannot be read")

    def refresh(self) -> bool:
        """The token was refused: read it again, and where it is the same one, go on to the next place's.

        True if it is another one now.
        """
        place = self._places[self._at]
        before = place.known
        place.read_if_possible()
        if place.known != before:
            return True
        for _ in self._places[1:]:
            self._begin_at(self._at + 1)
            if self._places[self._at].get() not in (None, before):
                return True
        self._begin_at(self._at + 1)
        return False

    def _begin_at(self, place: int) -> None:
        self._at, self._signed = place % len(self._places), 0

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown: the token, and the one before it, which may still be valid."""
        if len(self._places) == 1:  # it is asked for each text that leaves
            return self._places[0].secrets
        return tuple(secret for place in self._places for secret in place.secrets)

    @property
    def paths(self) -> list[Path]:
        """The files that hold it."""
        return [place.path for place in self._places if place.path is not None]

    def warnings(self) -> list[str]:
        """Sentences about a token that works but is not well kept."""
        place = self._places[self._at]
        if place.path is None or place.status is None or not stat.S_ISREG(place.status.st_mode):
            return []
        return [f"{self.origin} {what}" for what in _careless(place.status, place.path)]


def _careless(status: os.stat_result, path: Path) -> Iterator[str]:
    """How a token file is kept that is used all the same."""
    if status.st_uid not in (0, os.geteuid()):
        yield (
            f"belongs to user {status.st_uid}, who is neither root nor the user that snaprotd runs as: whose token it "
            f"is, and so whose servers are meant, is up to them. Run chown {os.geteuid()} {path}"
        )
    if status.st_mode & stat.S_IROTH:
        yield f"can be read by every user of this machine: run chmod 600 {path}"


def token_source(token_file: Path | None, environ: Mapping[str, str], *, pipes: bool = False) -> TokenSource:
    """The token of the first place that is set.

    `pipes`: for a command that ends by itself, which may read its token once from a pipe, as `<(pass vps)` gives it.

    They are `api.token_file`, $SNAPROTD_TOKEN_FILE, $CREDENTIALS_DIRECTORY/token and $VPS_API_TOKEN. The token is
    read once here. Raises `TokenError` where no place is set, or where the chosen one holds no usable token: a place
    that was named is never passed over in silence.
    """
    places = [_file(token_file, pipes=pipes)] if token_file is not None else _of_environment(environ, pipes=pipes)
    if not places:
        raise TokenError(
            "no API token: api.token_file, $SNAPROTD_TOKEN_FILE, $CREDENTIALS_DIRECTORY/token and $VPS_API_TOKEN are"
            " all unset; write the token to a file that only this user can read and name that file in api.token_file"
        )
    places[0].read()
    return TokenSource(places[0])


def first_accepted(
    token_files: Sequence[Path], environ: Mapping[str, str], *, environment_first: bool = False
) -> TokenSource:
    """The token of the first of these files and of the environment's places that the provider does not refuse.

    For a start that is owed: nobody knows any more whose token it was asked with. Raises `TokenError`, with what is
    wrong with each, where no place holds a usable one now.
    """
    groups = [[_file(path) for path in dict.fromkeys(token_files)], _of_environment(environ)]
    places = [place for group in (reversed(groups) if environment_first else groups) for place in group]
    complaints = []
    for place in places:
        try:
            place.read()
        except TokenError as error:
            complaints.append(str(error))
    if len(complaints) == len(places):
        raise TokenError("; ".join(complaints) or "no API token: no place for one is known")
    return TokenSource(*places)


def _file(path: Path, *, pipes: bool = False) -> _Place:
    return _Place(f"the token file {path}", path, pipes=pipes)


def _of_environment(environ: Mapping[str, str], *, pipes: bool = False) -> list[_Place]:
    """The places that are set, the one that counts first."""
    places = []
    if named := environ.get("SNAPROTD_TOKEN_FILE"):
        places.append(_Place(f"the token file {named} ($SNAPROTD_TOKEN_FILE)", Path(named), pipes=pipes))
    if (directory := environ.get("CREDENTIALS_DIRECTORY")) and _is_there(path := Path(directory, "token")):
        places.append(_Place(f"the token file {path} ($CREDENTIALS_DIRECTORY)", path))
    if text := environ.get("VPS_API_TOKEN"):
        places.append(_Place("the environment variable VPS_API_TOKEN", text=text))
    return places


def _is_there(path: Path) -> bool:
    """One that cannot be looked at is: to read it says why."""
    try:
        path.stat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid)


def _read(path: Path, origin: str, *, pipes: bool) -> tuple[Token, os.stat_result]:
    """The token in a file or a pipe, and what was opened."""
    try:
        content, status = _content(path, origin, pipes=pipes)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TokenError(
            f"{origin} cannot be read: {why}; create it, or make it readable for the user snaprotd runs as"
        ) from error
    if len(content) > LONGEST:
        raise TokenError(f"{origin} is longer than {LONGEST} bytes: it should hold the token and nothing else")
    if content.count(0) > len(content) // 3:
        raise TokenError(f"{origin} is UTF-16 text, as PowerShell's `>` writes it: save it as UTF-8 or plain ASCII")
    return _checked(content.decode("utf-8", "replace"), origin), status


def _content(path: Path, origin: str, *, pipes: bool) -> tuple[bytes, os.stat_result]:
    """The beginning of a file. A pipe without a writer is waited for, and so are files of the kernel, of no size."""
    _refuse_no_file(os.stat(path).st_mode, origin, pipes=pipes)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        _refuse_no_file(status.st_mode, origin, pipes=pipes)  # it may be another one by now
        if stat.S_ISFIFO(status.st_mode):
            return _of_pipe(file.fileno(), origin), status
        if status.st_mode & stat.S_IWOTH:
            raise TokenError(f"{origin} can be written by every user of this machine: run chmod 600 {path}")
        return file.read(min(status.st_size, LONGEST + 1)), status


def _of_pipe(descriptor: int, origin: str) -> bytes:
    """All that comes until the writers have closed it."""
    content, deadline = b"", time.monotonic() + PIPE_PATIENCE
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    while len(content) <= LONGEST:
        if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TokenError(f"{origin} is a pipe that did not end within {PIPE_PATIENCE:g} s")
        part = os.read(descriptor, LONGEST + 1)
        if not part:
            break
        content += part
    return content


def _refuse_no_file(mode: int, origin: str, *, pipes: bool) -> None:
    kind = kind_of_file(mode)
    if not kind or (pipes and stat.S_ISFIFO(mode)):
        return
    why = ", which the daemon could not read again" if stat.S_ISFIFO(mode) else ""
    raise TokenError(f"{origin} is {kind}, not a file{why}: write the token to a file, or put it into $VPS_API_TOKEN")


_SLIPS = (
    (r"""["'`].*|.*["'`]""", "is in quotes: leave them out"),
    (r"[A-Za-z_][A-Za-z0-9_]*=[^=].*", "holds a name before the token, as `NAME=...` has it: leave the name out"),
    (r"\$\{?\w+\}?|\{\{.*\}\}|<.*>|%\w+%", "holds a placeholder that nothing has filled in"),
    (r"[{\[].*", "holds JSON: it should hold the token alone"),
)
"""What is no token, though it is one word, and what to say of it; the first one that fits counts."""


def _checked(text: str, origin: str) -> Token:
    """The token without the white space around it. The message of a mistake never quotes it."""
    text = text.strip()
    if not text:
        raise TokenError(f"{origin} is empty: it should hold the API token")
    slip = next((why for pattern, why in _SLIPS if re.fullmatch(pattern, text, re.DOTALL)), None)
    if slip is not None:
        raise TokenError(f"{origin} {slip}")
    if any(character.isspace() for character in text):
        raise TokenError(
            f"{origin} holds more than one word: it should hold the token alone, without `Bearer` or a name"
        )
    if not all("!" <= character <= "~" for character in text):
        raise TokenError(f"{origin} holds characters that no token has: copy the token again, as plain ASCII text")
    if len(text) < SHORTEST:
        raise TokenError(f"{origin} holds less than {SHORTEST} letters, which is no token: copy the token again")
    return Token(text=text, origin=origin)
