"""Who is told: what `notify`, `heartbeat` and `ping` mean, and every mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from snaprotd.config.channels import Channel, Email, Heartbeat, Ping, Run, Webhook
from snaprotd.config.file import parse
from snaprotd.config.mistakes import render_mistake
from snaprotd.config.settings import Config
from snaprotd.core.errors import ConfigError
from snaprotd.core.telling import WORDS, Kind, Style

SERVERS = 'servers: [{id: 1, schedule: "@daily"}]\n'
IN = "/etc/snaprotd"


def read(text: str, **environ: str) -> Config:
    return parse(f"{text}\n{SERVERS}", "/etc/snaprotd/c.yaml", environ)


def refused(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as why:
        read(text, **environ)
    return [str(mistake).removeprefix("/etc/snaprotd/c.yaml:") for mistake in why.value.mistakes]


def test_each_channel_is_read_with_its_defaults() -> None:
    config = read(
        f"""notify:
  - {{webhook: {{url_file: {IN}/hook, secret_file: {IN}/key}}, on: [failure, vanished]}}
  - {{email: {{to: [a@example.org], from: b@example.org, smtp: "mail.example.org:587"}}}}
  - {{ping: {{url_file: {IN}/hc}}}}
  - {{run: [{IN}/run/notify, -v]}}
heartbeat: {{url_file: {IN}/beat}}"""
    )
    assert config.notify == (
        Channel(way=Webhook(url_file=Path(IN, "hook"), secret_file=Path(IN, "key")), on=(Kind.FAILURE, Kind.VANISHED)),
        Channel(way=Email(to=("a@example.org",), sender="b@example.org", smtp=("mail.example.org", 587)), on=WORDS),
        Channel(way=Ping(url_file=Path(IN, "hc"), style=Style.HEALTHCHECKS)),
        Channel(way=Run(argv=(f"{IN}/run/notify", "-v"))),
    )
    assert config.heartbeat == Heartbeat(url_file=Path(IN, "beat"), every=300.0)
    assert read("").notify == ()


def test_the_ping_of_a_policy_comes_in_layers_and_is_no_part_of_what_a_rotation_remembers() -> None:
    config = parse(
        f"""defaults: {{ping: {{url_file: {IN}/all}}, schedule: "@daily"}}
policies: {{own: {{ping: {{url_file: {IN}/own, style: plain}}}}}}
servers: [{{id: 1}}, {{id: 2, policy: own}}]""",
        "/etc/snaprotd/c.yaml",
        {},
    )
    assert [entry.ping for entry in config.entries] == [
        Ping(url_file=Path(IN, "all")),
        Ping(url_file=Path(IN, "own"), style=Style.PLAIN),
    ]
    assert "ping" not in config.entries[0].origins


HOOK = f"notify: [{{webhook: {{url_file: {IN}/hook"
MISTAKES = [
    ("notify: {a: 1}", "1:9: notify: should be a list, not a mapping"),
    ("notify: [5]", "1:10: notify[0]: should be a mapping of keys to values, not `5`"),
    ("notify: [{}]", "1:10: notify[0]: needs exactly one of `webhook`, `email`, `ping`, `run`, and has 0"),
    (
        f"{HOOK}}}, run: [{IN}/run/x]}}]",
        "1:10: notify[0]: needs exactly one of `webhook`, `email`, `ping`, `run`, and has 2",
    ),
    (
        "notify: [{webhok: {}}]",
        "1:11: notify[0].webhok: unknown key, did you mean `webhook`? (allowed here: webhook, email, ping, run, on)",
    ),
    ("notify: [{webhook: {}}]", "1:20: notify[0].webhook: `url_file` is missing"),
    (
        f"{HOOK}, secret_fil: x}}}}]",
        (
            "1:51: notify[0].webhook.secret_fil: unknown key, did you mean `secret_file`? "
            "(allowed here: url_file, secret_file)"
        ),
    ),
    (f"{HOOK}}}, on: []}}]", "1:56: notify[0].on: is an empty list: give it at least one value"),
    (
        f"{HOOK}}}, on: [test]}}]",
        "1:57: notify[0].on[0]: should be one of `failure`, `recovery`, `held_off`, `blocked`, `vanished`, not `test`",
    ),
    (
        f"notify: [{{ping: {{url_file: {IN}/hc}}, on: [failure]}}]",
        "1:51: notify[0].on: should have `recovery` in it: a check that is never told of success stays down",
    ),
    (
        f"notify: [{{ping: {{url_file: {IN}/hc, style: kuma}}}}]",
        (
            "1:53: notify[0].ping.style: should be one of `healthchecks`, `uptime_kuma` or `plain`, not `kuma`: "
            "did you mean `uptime_kuma`?"
        ),
    ),
    ("notify: [{email: {to: [a@b.c], from: a@b.c}}]", "1:18: notify[0].email: `smtp` is missing"),
    (
        'notify: [{email: {to: [a@b.c], from: a@b.c, smtp: "mail.b.c"}}]',
        '1:51: notify[0].email.smtp: should be host:port, such as mail.example.org:587, not `"mail.b.c"`',
    ),
    (
        'notify: [{email: {to: ["a@b.c\\nBcc: x@y.z"], from: a@b.c, smtp: "m:25"}}]',
        '1:24: notify[0].email.to[0]: should be a mail address, such as ops@example.org, not `"a@b.c Bcc: x@y.z"`',
    ),
    (
        'notify: [{email: {to: [a@b.c], from: a@b.c, smtp: "m:25", user: u}}]',
        "1:18: notify[0].email: `user` and `password_file` go together",
    ),
    (
        "notify: [{run: /etc/snaprotd/run/x}]",
        (
            "1:16: notify[0].run: should be a list of texts: a program's whole path, and what it is given, "
            "not `/etc/snaprotd/run/x`"
        ),
    ),
    ("heartbeat: {every: 5m}", "1:12: heartbeat: `url_file` is missing"),
    (f"heartbeat: {{url_file: {IN}/b, every: 1s}}", "1:47: heartbeat.every: should be from 10s to 1d, not `1s`"),
    (
        "defaults: {ping: {style: plain}}",
        "1:18: defaults.ping: `url_file` is missing",
    ),
    (
        "policies: {ping: {ping: {url: x}}}",
        (
            "1:26: policies.ping.ping.url: a secret does not belong in this file: put it alone into another one, which "
            "only the user that runs snaprotd may read, and name that with `url_file`"
        ),
    ),
    (
        f"notify: [{', '.join(f'{{run: [{IN}/run/x]}}' for _ in range(9))}]",
        "1:9: notify: has 9 values: 8 at most",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_one_mistake_is_answered_by_one_sentence_at_its_place(text: str, message: str) -> None:
    assert refused(text) == [message]


@pytest.mark.parametrize("key", ["url", "secret", "password"])
def test_a_secret_in_the_file_itself_is_refused_and_not_shown(key: str) -> None:
    way = "email" if key == "password" else "webhook"
    given = "to: [a@b.c], from: a@b.c, smtp: 'm:25', user: u, " if way == "email" else f"url_file: {IN}/h, "
    if key == "url":
        given = ""
    text = f"notify:\n  - {way}: {{{given}\n      {key}: https://hooks.example.org/T0Q7ZK31/zX9kPq81LmW2}}"
    with pytest.raises(ConfigError) as why:
        read(text)
    (mistake,) = why.value.mistakes
    assert f"name that with `{key}_file`" in str(mistake)
    assert "T0Q7" not in str(mistake) + render_mistake(mistake, text)


# -- what the writer of the file may not decide ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "notify: [{webhook: {url_file: /etc/shadow}}]",
        f"notify: [{{webhook: {{url_file: {IN}/hook, secret_file: /root/.ssh/id_ed25519}}}}]",
        'notify: [{email: {to: [a@b.c], from: a@b.c, smtp: "x.example:465", user: u, password_file: /etc/shadow}}]',
        "notify: [{ping: {url_file: /etc/snaprotd/../shadow}}]",
        "heartbeat: {url_file: /etc/snaprotd-else/hook}",
        "defaults: {ping: {url_file: hook}}",
    ],
)
def test_only_files_in_the_folders_of_secrets_are_read_as_such(text: str) -> None:
    (mistake,) = refused(text)
    assert "is in none of the folders in which such files may lie: /etc/snaprotd; $SNAPROTD_SECRETS" in mistake


def test_whoever_runs_snaprotd_may_name_other_folders(tmp_path: Path) -> None:
    text = f"heartbeat: {{url_file: {tmp_path}/one/hook}}"
    assert refused(text)
    for name in ("SNAPROTD_SECRETS", "CREDENTIALS_DIRECTORY"):
        assert read(text, **{name: f"{tmp_path}/one"}).heartbeat
    assert read(text, SNAPROTD_SECRETS=f"/else:{tmp_path}/one").heartbeat
    assert refused(text, SNAPROTD_SECRETS=f"{tmp_path}/two")
    assert refused(text, SNAPROTD_SECRETS="one")


def test_a_link_out_of_the_folder_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "hook").symlink_to("/etc/shadow")
    with pytest.raises(ConfigError, match="is in none of the folders"):
        parse(f"heartbeat: {{url_file: {tmp_path}/hook}}\n{SERVERS}", f"{tmp_path}/c.yaml", {})


@pytest.mark.parametrize(
    "program", ["/bin/sh", "notify", f"{IN}/run/../../../bin/sh", f"{IN}/running/x", f"{IN}/config.yaml"]
)
def test_only_programs_of_the_folder_of_programs_may_be_named(program: str) -> None:
    (mistake,) = refused(f"notify: [{{run: [{program}, -c, id]}}]")
    assert f"{program} may not be run: programs are to lie in {IN}/run" in mistake


def test_whoever_runs_snaprotd_may_name_another_folder_of_programs() -> None:
    text = "notify: [{run: [/opt/tell/x]}]"
    assert refused(text)
    for named in ("/opt/tell", "/srv,/opt/tell", "/srv: /opt"):
        assert read(text, SNAPROTD_ALLOW_RUN=named).notify
        assert read(f"notify: [{{run: [{IN}/run/deeper/x]}}]", SNAPROTD_ALLOW_RUN=named).notify
    assert refused(text, SNAPROTD_ALLOW_RUN="opt/tell")


def test_there_is_a_bound_on_the_files_that_hold_secrets() -> None:
    entries = ", ".join(f'{{id: {n + 2}, schedule: "@daily", ping: {{url_file: {IN}/{n}}}}}' for n in range(101))
    with pytest.raises(ConfigError, match="too many files with secrets"):
        parse(f"servers: [{entries}]", "/etc/snaprotd/c.yaml", {})
