"""What a visitor will think of the pages' certificate: asked of TLS itself, by a handshake with ourselves in memory.

The standard library reads no dates from a file, but it judges whoever it speaks with.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from snaprotd.core.errors import SnaprotdError
from snaprotd.web.protection import Wanted, context_of

OUT_OF_TIME = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
FLIGHTS = 5
"""Times that each side may have to speak, and then some."""
ANOTHERS = 62
"""X509_V_ERR_HOSTNAME_MISMATCH."""


@dataclass(frozen=True)
class Certificate:
    """One that was looked at, with its chain."""

    file: Path
    ends_at: datetime | None = None
    """None where that is not known, as of one that is not valid now."""
    why_not: str = ""
    """Why it is not valid now, as of one that has ended; empty where it is, or where that is not known."""


def certificate_of(wanted: Wanted) -> Certificate | None:
    """As it is now; None where there is none. Takes some milliseconds.

    Raises `SnaprotdError` where the certificate or its key cannot be used.
    """
    if wanted.cert_file is None:
        return None
    try:
        shown = _shown_by(wanted)
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message.removeprefix("certificate ") if error.verify_code in OUT_OF_TIME else ""
        return Certificate(wanted.cert_file, why_not=why)
    except ssl.SSLError:
        return Certificate(wanted.cert_file)  # whoever comes is told by TLS what is wrong with it
    ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    return Certificate(wanted.cert_file, ends_at=ends_at)


def is_for(wanted: Wanted, name: str) -> bool:
    """Whether the certificate is for the host `name`; True where that cannot be told."""
    try:
        _shown_by(wanted, name)
    except ssl.SSLCertVerificationError as error:
        return error.verify_code != ANOTHERS
    except (ssl.SSLError, SnaprotdError, ValueError):
        pass
    return True


def _shown_by(wanted: Wanted, name: str | None = None) -> dict[str, object]:
    """The certificate, as a client has it that trusts it. Raises SSLError, and what `context_of` does."""
    ours, theirs = context_of(wanted, asks=False), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = name is not None
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is trusted by itself, whoever has signed it
    theirs.load_verify_locations(wanted.cert_file)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(back, there, server_hostname=name)
    server = ours.wrap_bio(there, back, server_side=True)
    for side in (client, server) * FLIGHTS:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    if client.version() is None:
        raise ssl.SSLError("the handshake does not end")
    return dict(client.getpeercert() or {})
