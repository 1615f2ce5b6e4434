"""How a command knows the daemon of its configuration: by a key beside the ledger, and not by what answers at a port.

Any user of the machine may sit on the port before the daemon does, and tell of a ledger of his own.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from snaprotd.config.settings import SYSTEM_STATE, Config

LENGTH = 64
"""Characters of a key."""


def key_of(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.identity")


def own_key(ledger: Path) -> str:
    """The key of the ledger's daemon, made where there is none. Empty where it cannot be: commands then believe less.

    It is whole as soon as it has its name, and for the daemon's user alone.
    """
    place = key_of(ledger)
    made = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        if key := _key_at(place, {os.geteuid()}):
            return key
        with suppress(FileNotFoundError):
            made.unlink()
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(LENGTH // 2))
        made.replace(place)
    except OSError:
        return ""
    return _key_at(place, {os.geteuid()})


def proof_of(key: str, ledger: str, challenge: str) -> str:
    """That who answers may read the key, in hexadecimal."""
    return hmac.digest(key.encode(), f"{challenge}\n{ledger}".encode(), "sha256").hex()


def proven_ledger(answer: Mapping[str, object], challenge: str, config: Config) -> str | None:
    """The ledger of the daemon that gave this answer; None where that does not prove to know the key.

    A key counts where it is root's, ours, or the owner's of the configuration, or in the folder that is the daemon's
    on every system: anybody may put a key into a folder of his own.
    """
    ledger, proof = answer.get("ledger"), answer.get("proof")
    if not isinstance(ledger, str) or not isinstance(proof, str) or not os.path.isabs(ledger):
        return None
    owners = {0, os.geteuid()}
    try:
        owners.add(os.stat(config.path).st_uid)
        folder = Path(os.path.realpath(ledger)).parent
        if folder == SYSTEM_STATE:
            owners.add(folder.stat().st_uid)
        key = _key_at(key_of(Path(ledger)), owners)
    except (OSError, ValueError):
        return None
    expected = proof_of(key, ledger, challenge)
    return ledger if key and hmac.compare_digest(expected.encode(), proof.encode()) else None


def _key_at(place: Path, owners: set[int]) -> str:
    """Empty where there is none that counts."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        is_kept = stat.S_ISREG(found.st_mode) and found.st_uid in owners and not found.st_mode & 0o022
        key = file.read(LENGTH + 1) if is_kept else b""
    return key.decode("ascii", "replace") if len(key) == LENGTH else ""
