"""Certificates of hosts that do not exist, as long as a test lasts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certify(folder: Path, name: str, *, days: tuple[float, float] = (-1, 1), host: str = "") -> Path:
    """One of `host`, by default of `name`, signed by itself, from so many days after now to so many.

    In NAME.crt, its key in NAME.key; both in the file that is returned.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host or name)])
    begins, ends = (datetime.now(UTC) + timedelta(days=one) for one in days)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(begins).not_valid_after(ends)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host or name)]), critical=False)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / f"{name}.crt").write_bytes(certificate)
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
    both = folder / f"{name}.pem"
    both.write_bytes(certificate + key.private_bytes(*form))
    return both
