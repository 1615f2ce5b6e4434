"""The file of `web_config`: what is good, and one sentence for each mistake, none with a hash in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snaprotd.config.addresses import is_open_beyond
from snaprotd.config.file import parse
from snaprotd.config.web_file import WebFile, read_web_file
from snaprotd.core.errors import ConfigError

HASH = "$2y$10$eQ8OyRMuU4VYhCpsR9G4neI/CPSfML.vIYbVMeBKmTZIT6NtyRmLm"
TOP = "tls_server_config, basic_auth_users, http_server_config"
TLS = "cert_file, key_file, min_version, max_version, client_ca_file, client_auth_type"
A_HASH = "should be a bcrypt hash of the password, as `htpasswd -nBC 10 USER` prints it after the colon"


def read(folder: Path, text: str) -> WebFile:
    path = folder / "web.yaml"
    path.write_text(text)
    return read_web_file(path)


def test_a_file_as_prometheus_exporters_have_it(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        f"""\
tls_server_config:
  cert_file: server.crt
  key_file: /etc/key
  min_version: TLS13
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
basic_auth_users:
  ann: {HASH}
http_server_config:
  http2: false
  headers: {{X-Frame-Options: deny}}
""",
    )
    assert found == WebFile(
        path=tmp_path / "web.yaml",
        cert_file=tmp_path / "server.crt",
        key_file=Path("/etc/key"),
        min_version="TLS13",
        client_ca_file=tmp_path / "ca.crt",
        client_auth_type="RequireAndVerifyClientCert",
        users={"ann": HASH},
        headers={"X-Frame-Options": "deny"},
    )
    assert HASH not in repr(found)


MISTAKES = [
    ("", "1:1: should be a mapping with `tls_server_config` or `basic_auth_users` in it"),
    ("- a", "1:1: should be a mapping with `tls_server_config` or `basic_auth_users` in it"),
    ("http_server_config: {http2: true}", "1:1: protects nothing: give it `tls_server_config` or `basic_auth_users`"),
    (f"basic_auth_users: {{a: {HASH}}}\nfoo: 1", f"2:1: foo: unknown key (allowed here: {TOP})"),
    (
        f"basic_auth_users: {{a: {HASH}}}\nbasic_auth_user: {{}}",
        f"2:1: basic_auth_user: unknown key, did you mean `basic_auth_users`? (allowed here: {TOP})",
    ),
    ("basic_auth_users: {}", "1:19: basic_auth_users: should be a mapping with something in it"),
    ("basic_auth_users: {ann: swordfish}", f"1:25: basic_auth_users.ann: {A_HASH}"),
    ("basic_auth_users: {ann: 12345}", f"1:25: basic_auth_users.ann: {A_HASH}"),
    ("basic_auth_users: {ann: }", f"1:25: basic_auth_users.ann: {A_HASH}"),
    (
        f"basic_auth_users: {{ann: {HASH.replace('$10$', '$31$')}}}",
        "1:25: basic_auth_users.ann: should be a bcrypt hash of a cost from 4 to 15",
    ),
    (
        f'basic_auth_users: {{"a:b": {HASH}}}',
        '1:20: basic_auth_users["a:b"]: should be a user\'s name without a colon',
    ),
    (
        "tls_server_config: {cert_file: a}",
        "1:20: tls_server_config: `key_file` is missing: there is a `cert_file`",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
        "1:61: tls_server_config.min_version: should be one of `TLS12`, `TLS13`",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}",
        "1:81: tls_server_config.max_version: should not be below `min_version`",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, cipher_suites: [x]}",
        f"1:48: tls_server_config.cipher_suites: unknown key (allowed here: {TLS})",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}",
        "1:20: tls_server_config: `client_ca_file` and a `client_auth_type` that verifies go together",
    ),
    (
        "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
        "1:20: tls_server_config: `client_ca_file` and a `client_auth_type` that verifies go together",
    ),
    (
        f'basic_auth_users: {{a: {HASH}}}\nhttp_server_config: {{headers: {{X-Frame-Options: "a\\nb"}}}}',
        "2:49: http_server_config.headers.X-Frame-Options: should be text of 1 to 1000 plain characters",
    ),
    (
        f"basic_auth_users: {{a: {HASH}, a: {HASH}}}",
        "1:85: basic_auth_users.a: repeated key: it stands in line 1 already",
    ),
]


@pytest.mark.parametrize(("text", "mistake"), MISTAKES)
def test_a_mistake_is_one_sentence_at_its_place(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as told:
        read(tmp_path, text)
    assert str(told.value) == f"{tmp_path / 'web.yaml'}:{mistake}"
    assert told.value.text == ""  # no line of the file is shown


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a directory, not a file"),
        (os.mkfifo, "a pipe, not a file"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8 text"),
        (lambda path: path.write_text("#" * 300_000), "larger than 256 KiB"),
    ],
)
def test_what_is_no_readable_file_is_refused_at_once(tmp_path: Path, make: object, word: str) -> None:
    assert callable(make)
    make(tmp_path / "web.yaml")
    with pytest.raises(ConfigError, match=word):
        read_web_file(tmp_path / "web.yaml")


SERVERS = 'servers: [{id: 1, schedule: "@daily"}]\n'

LISTENS = [
    ("unix:/run/snaprotd/http.sock", Path("/run/snaprotd/http.sock"), False),
    ("127.0.0.1:80", ("127.0.0.1", 80), False),
    ("localhost:80", ("localhost", 80), False),
    ('"[::1]:80"', ("::1", 80), False),
    ("off", None, False),
    ('"[::]:80"', ("::", 80), True),
    ("10.0.0.1:80", ("10.0.0.1", 80), True),
    ("snap.example.org:80", ("snap.example.org", 80), True),
]


@pytest.mark.parametrize(("written", "meant", "is_open"), LISTENS)
def test_where_the_pages_are_and_whether_others_reach_them(written: str, meant: object, is_open: bool) -> None:
    found = parse(f"listen: {written}\n{SERVERS}", "config.yaml", {}).listen
    assert (found, is_open_beyond(found)) == (meant, is_open)


WHOLE = "should be unix: and the whole path of a socket, such as unix:/run/snaprotd/http.sock"
LONG = "should be a path of 107 bytes at the most: no socket's may be longer"
NAME = "should be a host's name, such as snaprotd.example.org: no scheme, no port, no `*`"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("listen: unix:run/a.sock", f"1:9: listen: {WHOLE}, not `unix:run/a.sock`"),
        ("listen: unix:/run/", f"1:9: listen: {WHOLE}, not `unix:/run/`"),
        (
            f"listen: unix:/{'a' * 107}",
            f"1:9: listen: {LONG}, not `unix:/{'a' * 51}...`",
        ),
        ("allowed_hosts: snap", "1:16: allowed_hosts: should be a list, not `snap`: write [snap]"),
        ('allowed_hosts: ["*.example.org"]', f'1:17: allowed_hosts[0]: {NAME}, not `"*.example.org"`'),
        ("allowed_hosts: [https://snap]", f"1:17: allowed_hosts[0]: {NAME}, not `https://snap`"),
        ('allowed_hosts: ["snap:9877"]', f'1:17: allowed_hosts[0]: {NAME}, not `"snap:9877"`'),
        (
            "allowed_hosts: [10.0.0.1]",
            "1:17: allowed_hosts[0]: should be a name: every IP address is allowed, not `10.0.0.1`",
        ),
        ('web_config: ""', '1:13: web_config: should be the path of a file, not `""`'),
    ],
)
def test_a_mistake_in_the_keys_of_the_pages_is_one_sentence(text: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(f"{text}\n{SERVERS}", "config.yaml", {})
    assert str(told.value) == f"config.yaml:{mistake}"


def test_names_are_compared_in_lower_case() -> None:
    assert parse(f"allowed_hosts: [Snap.Example.org]\n{SERVERS}", "c", {}).allowed_hosts == ("snap.example.org",)
