"""What stands in the environment, by mistake or by habit: it is told in a sentence with the variable's name."""

from __future__ import annotations

import socket
from pathlib import Path

import certifi
import pytest
from structlog.testing import capture_logs

from snaprotd.core.errors import NotSent
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import VpsOrg
from snaprotd.way import BadEnvironment, proxy_to, trusted
from tests.support.processes import run

HOST = "admin.vps.org"
KUBERNETES = "localhost,127.0.0.1,::1,[::1],fd00::/8,[fd00::]/8,10.0.0.0/8,.svc,.cluster.local"
FILE = 'servers: [{id: 1, schedule: "@daily"}]\nlisten: off\nown_server: none\n'


def via(host: str = HOST, **environ: str) -> str | None:
    proxy = proxy_to(host, 443, environ)
    return None if proxy is None else f"{proxy.variable} {proxy.url}"


# -- proxies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:1"}, "HTTPS_PROXY http://p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "https_proxy http://p:1"),
        ({"ALL_PROXY": "https://me:hush@p:1"}, "ALL_PROXY https://me:hush@p:1"),
        ({"HTTPS_PROXY": "p:3128"}, "HTTPS_PROXY http://p:3128"),
        ({"HTTP_PROXY": "socks5://p:1"}, None),  # nothing is ever asked over plain http but on loopback
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "socks5://q:1"}, "HTTPS_PROXY http://p:1"),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": HOST}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "vps.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a, .VPS.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*.vps.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": f"{HOST}:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": f"{HOST}:444"}, "HTTPS_PROXY http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "s.org"}, "HTTPS_PROXY http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": KUBERNETES}, "HTTPS_PROXY http://p:1"),
    ],
)
def test_the_proxy_is_the_one_that_curl_would_take(environ: dict[str, str], expected: str | None) -> None:
    with capture_logs() as told:
        assert via(**environ) == expected
    assert told == []


@pytest.mark.parametrize("network", ["fd00::/8", "[fd00::]/8", "fd00::1", "[fd00::1]", "[fd00::1]:443"])
def test_an_address_of_ipv6_is_excepted_by_itself_or_by_its_network(network: str) -> None:
    assert via("fd00::1", HTTPS_PROXY="http://p:1", NO_PROXY=network) is None
    assert via("fe00::1", HTTPS_PROXY="http://p:1", NO_PROXY=network) is not None


@pytest.mark.parametrize("entry", ["fd00::/999", "10.0.0.0/8/8", "[::1", "x:port", "http://"])
def test_an_entry_that_cannot_be_read_is_passed_over_with_a_warning(entry: str) -> None:
    with capture_logs() as told:
        assert via(HTTPS_PROXY="http://p:1", NO_PROXY=f"{entry},vps.org") is None
    assert [(line["log_level"], line["variable"], line["entry"]) for line in told] == [("warning", "NO_PROXY", entry)]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "ALL_PROXY",
            "socks5://127.0.0.1:1080",
            "ALL_PROXY names a SOCKS proxy: snaprotd knows http and https proxies",
        ),
        ("all_proxy", "socks5h://me:hush@p:1", "all_proxy names a SOCKS proxy: snaprotd knows http and https proxies"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY names the proxy ftp://127.0.0.1:9: snaprotd knows http and"),
        ("HTTPS_PROXY", "ftp://me:hush@p:9", "HTTPS_PROXY names the proxy ftp://p:9: snaprotd knows http and"),
        ("HTTPS_PROXY", "http://me:hush@p:port", "HTTPS_PROXY names no proxy: it should be http://HOST:PORT, not "),
        ("HTTPS_PROXY", "http://", "HTTPS_PROXY names no proxy: it should be http://HOST:PORT, not http://"),
        ("HTTPS_PROXY", "http://[::1", "HTTPS_PROXY names no proxy"),
        ("HTTPS_PROXY", "http://a b", "HTTPS_PROXY names no proxy"),
    ],
)
def test_what_is_no_proxy_of_ours_is_told_with_its_variable_and_without_a_password(
    variable: str, value: str, sentence: str
) -> None:
    with pytest.raises(BadEnvironment) as why:
        via(**{variable: value})
    assert str(why.value).startswith(sentence)
    assert "hush" not in str(why.value)


@pytest.mark.real_time
async def test_a_proxy_that_is_not_there_is_told_instead_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:  # bound, and listening to nobody
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for name in ("https_proxy", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hush@127.0.0.1:{port}")
        token = token_source(None, {"VPS_API_TOKEN": "vps_of_tests"})
        async with VpsOrg(base_url=f"https://{HOST}/api/v1", token=token, attempts=1) as api:
            with pytest.raises(NotSent) as why:
                await api.servers()
    assert str(why.value).startswith(f"the proxy 127.0.0.1:{port} (HTTPS_PROXY) cannot be reached for GET ")
    assert "hush" not in str(why.value)


# -- certificates --------------------------------------------------------------------------------------------------


def test_whose_certificates_are_trusted(tmp_path: Path) -> None:
    everybody = len(trusted({}).get_ca_certs())
    one = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (tmp_path / "ca.pem").write_text(one[0] + one[1])
    assert everybody > 50
    assert len(trusted({"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": "/nowhere"}).get_ca_certs()) == 1
    assert len(trusted({"SSL_CERT_DIR": str(tmp_path)}).get_ca_certs()) == 0
    assert (
        len(trusted({"SSL_CERT_FILE": "", "SSLKEYLOGFILE": str(tmp_path / "no" / "keys")}).get_ca_certs()) == everybody
    )


@pytest.mark.parametrize(
    ("variable", "content", "why"),
    [
        ("SSL_CERT_FILE", None, "no such file"),
        ("SSL_CERT_FILE", "a folder", "a directory, not a file"),
        ("SSL_CERT_FILE", "", "it holds no certificates that can be read"),
        ("SSL_CERT_FILE", "rubbish", "it holds no certificates that can be read"),
        ("SSL_CERT_DIR", None, "no such folder"),
        ("SSL_CERT_DIR", "rubbish", "not a directory"),
    ],
)
def test_certificates_that_are_not_there_are_told_with_their_variable(
    tmp_path: Path, variable: str, content: str | None, why: str
) -> None:
    path = tmp_path / "ca"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(BadEnvironment) as told:
        trusted({variable: str(path)})
    assert str(told.value) == f"{variable} names {path}: {why}"


@pytest.mark.real_time
@pytest.mark.parametrize("command", ["check --online", "plan", "list", "now 1", "delete 801 --yes", "run"])
async def test_every_command_and_the_daemon_say_it_in_a_sentence(tmp_path: Path, command: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{FILE}state: {tmp_path / 'state.db'}\n")
    for environ, sentence in (
        ({"SSL_CERT_FILE": "/nonexistent/ca.pem"}, "SSL_CERT_FILE names /nonexistent/ca.pem: no such file"),
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY names a SOCKS proxy"),
    ):
        ended = await run(*command.split(), "--config", str(path), **{"HTTPS_PROXY": "", "https_proxy": "", **environ})
        assert (ended.code, sentence in ended.err) == (1, True), ended.err
        assert "Traceback" not in ended.err
        assert not (tmp_path / "state.db-wal").exists() or command.startswith(("now", "run"))
