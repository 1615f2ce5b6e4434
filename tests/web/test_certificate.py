"""The certificate of the pages, looked at before a visitor does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.config.web_file import WebFile
from snaprotd.core.errors import SnaprotdError
from snaprotd.web.certificate import certificate_of, is_for
from tests.support.certificates import certify


def wanting(folder: Path, name: str = "now", **more: Any) -> WebFile:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    return WebFile(path=folder / "web.yaml", cert_file=certificate, key_file=key, **more)


def test_pages_without_tls_have_none(tmp_path: Path) -> None:
    assert certificate_of(WebFile(path=tmp_path / "web.yaml", users={"ann": "..."})) is None


@pytest.mark.parametrize("most", ["TLS12", "TLS13"])
def test_its_end_is_known_whatever_is_spoken(tmp_path: Path, most: str) -> None:
    certify(tmp_path, "now", days=(-1, 40))
    found = certificate_of(wanting(tmp_path, max_version=most))
    assert found is not None
    assert found.ends_at is not None
    assert (found.file, found.why_not) == (tmp_path / "now.crt", "")
    assert abs(found.ends_at - datetime.now(UTC) - timedelta(days=40)) < timedelta(minutes=5)


def test_it_is_looked_at_though_visitors_are_to_have_one_too(tmp_path: Path) -> None:
    certify(tmp_path, "now", days=(-9, -1))
    (tmp_path / "clients.crt").write_bytes((tmp_path / "now.crt").read_bytes())
    asking: dict[str, Any]
    asking = {
        "client_ca_file": tmp_path / "clients.crt",
        "client_auth_type": "RequireAndVerifyClientCert",
    }
    found = certificate_of(wanting(tmp_path, **asking))
    assert found is not None
    assert found.why_not == "has expired"


@pytest.mark.parametrize(("days", "why"), [((-9, -1), "has expired"), ((1, 9), "is not yet valid"), ((-1, 1), "")])
def test_one_that_is_not_valid_now_is_told(tmp_path: Path, days: tuple[float, float], why: str) -> None:
    certify(tmp_path, "now", days=days)
    found = certificate_of(wanting(tmp_path))
    assert found is not None
    assert (found.why_not, found.ends_at is None) == (why, bool(why))


def test_what_cannot_be_used_is_told_with_its_file(tmp_path: Path) -> None:
    certify(tmp_path, "now")
    certify(tmp_path, "other")
    (tmp_path / "other.key").rename(tmp_path / "now.key")
    with pytest.raises(SnaprotdError, match=r"web.yaml: .*now\.crt cannot be used: its key is that of another one"):
        certificate_of(wanting(tmp_path))


def test_for_which_host_it_is(tmp_path: Path) -> None:
    certify(tmp_path, "now", host="*.a.example")
    certify(tmp_path, "over", days=(-9, -1), host="*.a.example")
    names = ("x.a.example", "a.example", "x.b.example")
    assert [is_for(wanting(tmp_path), name) for name in names] == [True, False, False]
    assert is_for(wanting(tmp_path, "over"), "x.a.example")
    assert is_for(wanting(tmp_path, "nothing"), "x.a.example")
