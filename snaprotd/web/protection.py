"""TLS and passwords of the pages: who may look, and that nobody else listens."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import secrets
import ssl
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from snaprotd.core.errors import SnaprotdError

LARGEST = 1024 * 1024
"""Bytes of a certificate with its chain, or of anything else that is read here."""

KNOWN_AT_MOST = 100
"""Passwords that were right: each is checked in full once, and a scrape every 15 s costs nothing after that."""

REASONS = {"KEY_VALUES_MISMATCH": "its key is that of another one"}
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


class Wanted(Protocol):
    """What somebody has written down: the file of `web_config`."""

    @property
    def path(self) -> Path: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def min_version(self) -> str: ...
    @property
    def max_version(self) -> str: ...
    @property
    def client_ca_file(self) -> Path | None: ...
    @property
    def client_auth_type(self) -> str: ...
    @property
    def users(self) -> Mapping[str, str]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Protection:
    """What is in force: the certificate as it was read, the users, the headers of each answer."""

    def __init__(self, wanted: Wanted | None = None) -> None:
        """Raises `SnaprotdError` where the certificate or its key cannot be used."""
        self.tls = context_of(wanted) if wanted is not None and wanted.cert_file is not None else None
        self.users = Users(wanted.users) if wanted is not None and wanted.users else None
        headers = wanted.headers if wanted is not None else {}
        self.headers = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


def context_of(wanted: Wanted, *, asks: bool = True) -> ssl.SSLContext:
    """To serve with. `asks`: those who come for a certificate of theirs, where that is wanted.

    Raises `SnaprotdError` where the certificate or its key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[wanted.min_version]
    context.maximum_version = VERSIONS[wanted.max_version]
    context.verify_mode = CLIENT_AUTH[wanted.client_auth_type] if asks else ssl.CERT_NONE
    assert wanted.cert_file is not None
    try:
        for file in _files(wanted)[1:]:
            _content(file)
        context.load_cert_chain(wanted.cert_file, wanted.key_file, password=_no_password)
        if wanted.client_ca_file is not None:
            context.load_verify_locations(wanted.client_ca_file)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        what = getattr(error, "filename", None) or f"the certificate {wanted.cert_file}"
        raise SnaprotdError(f"{wanted.path}: {what} cannot be used: {_reason_of(error)}") from error
    return context


def _reason_of(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return REASONS.get(error.reason, error.reason) or "it or its key is not in PEM form"
    return getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """A key that asks for one would be waited for on the terminal."""
    raise ValueError("its key is encrypted")


def _files(wanted: Wanted) -> Sequence[Path]:
    named = (wanted.path, wanted.cert_file, wanted.key_file, wanted.client_ca_file)
    return [file for file in named if file is not None]


def stamp_of(wanted: Wanted) -> str:
    """Another one as soon as the file of `web_config`, or one that it names, holds something else."""
    digest = hashlib.sha256()
    for file in _files(wanted):
        try:
            content = _content(file)
        except OSError as error:
            content = f"cannot be read: {error.errno}".encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _content(file: Path) -> bytes:
    """Of a regular file, its beginning: a pipe without a writer would be waited for. Raises OSError.

    So would some files of the kernel, as in /proc: they say that they have no size.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= LARGEST:
            raise OSError(0, f"no file of 1 byte to {LARGEST // 1024} KiB", file)
        return os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)


class Users:
    """Who may look, by name and password."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {user.encode(): word.encode() for user, word in hashes.items()}
        self._decoy = max(self._hashes.values(), key=_cost)
        """Checked for users that there are not, so that how long it takes tells nothing; its answer does not count."""
        self._key = secrets.token_bytes(32)
        self._known: set[bytes] = set()
        self._one_at_a_time = asyncio.Lock()

    def knows(self, header: str) -> bool:
        """Whether a header Authorization has been found right before. Costs nothing."""
        return self._mark(header) in self._known

    async def check(self, header: str) -> bool:
        """Whether it is right. Costs a core some time, off the loop, and one at a time."""
        user, password = _credentials(header)
        async with self._one_at_a_time:
            word = self._hashes.get(user, self._decoy)
            fits = await asyncio.to_thread(_fits, password, word, as_long_as=_cost(self._decoy))
        if not fits or user not in self._hashes:
            return False
        if len(self._known) >= KNOWN_AT_MOST:
            self._known.clear()
        self._known.add(self._mark(header))
        return True

    def _mark(self, header: str) -> bytes:
        """Of a header, for the memory of those that were right: no password is kept."""
        return hmac.digest(self._key, header.encode(), "sha256")


def _credentials(header: str) -> tuple[bytes, bytes]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", b""
    return user, password


def _cost(word: bytes) -> int:
    """Of a bcrypt hash: one more takes twice as long."""
    return int(word[4:6])


def _fits(password: bytes, word: bytes, *, as_long_as: int) -> bool:
    """Takes as long as a hash of the cost `as_long_as`, so that it tells nothing of whose hash it is."""
    import bcrypt  # a tenth of a second's work for who has no passwords

    try:
        fits = bcrypt.checkpw(password, word)
    except ValueError:  # longer than bcrypt can tell apart, or with a NUL in it
        fits = bcrypt.checkpw(b"", word) and False
    for cost in range(_cost(word), as_long_as):  # 2^4 and 2^4, 2^5, 2^6 are 2^7
        bcrypt.hashpw(b"", b"$2b$%02d$" % cost + b"." * 22)
    return fits
