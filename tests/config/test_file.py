"""The configuration file: what good files mean, how layers are laid, and which servers come out of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.config.channels import SHAPES, NotifyKeys
from snaprotd.config.file import digest_of, find_config, json_schema, load, parse
from snaprotd.config.settings import Config, MetricsSettings, PerServer, Target, notes_directory, resolve
from snaprotd.config.shape import (
    ApiKeys,
    FileKeys,
    HeartbeatKeys,
    MetricsKeys,
    PolicyKeys,
    RetentionKeys,
    RetryKeys,
    ServerKeys,
)
from snaprotd.config.text import yaml_nodes
from snaprotd.core.errors import ConfigError
from snaprotd.core.model import Server
from snaprotd.core.policy import OnStopTimeout, Policy, Retention, Retry, WhenFull
from snaprotd.core.schedule import Missed
from snaprotd.core.words import shown_duration
from tests.support.no_files import KINDS, standing_at
from tests.support.nouns import a_server
from tests.support.policies import a_policy, slots

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
SMALLEST = 'servers: [{id: 1, schedule: "@daily"}]\n'


def policy(text: str) -> Policy:
    """The policy of a server that has `text` besides its id and schedule."""
    return parse(f"servers:\n  - id: 1\n    schedule: '@daily'\n    {text}\n", "c.yaml", {}).entries[0].policy


def config(text: str, **environ: str) -> Config:
    return parse(f"{text}\n{SMALLEST}", "c.yaml", environ)


# --- Values ------------------------------------------------------------------------------------------------------


def test_a_server_with_nothing_but_a_schedule_has_the_policy_of_the_model() -> None:
    assert parse(SMALLEST, "c.yaml", {}).entries[0].policy == a_policy("@daily")


def test_the_defaults_are_the_documented_ones() -> None:
    found = parse(SMALLEST, "c.yaml", {})
    assert (found.api.base_url, found.api.token_file) == ("https://admin.vps.org/api/v1", None)
    assert (found.api.requests_per_second, found.api.timeout, found.api.settle) == (5.0, 30.0, 120.0)
    assert (found.listen, found.instance) == (("127.0.0.1", 9877), "main")
    assert (found.limit, found.max_concurrent, found.poll_interval) == (5, 20, 15.0)
    assert (found.drain_timeout, found.discover_interval) == (600.0, 300.0)


POLICIES = [
    ("keep: 1", "keep", Retention(last=1)),
    ("keep: {last: 2, daily: 1, weekly: 1}", "keep", Retention(last=2, daily=1, weekly=1)),
    ("keep: {monthly: 1}", "keep", Retention(monthly=1)),
    ("spread: 0s", "spread", timedelta(0)),
    ("spread: 1.5h", "spread", timedelta(minutes=90)),
    ("stop_timeout: 500ms", "stop_timeout", timedelta(milliseconds=500)),
    ("start_timeout: 90s", "start_timeout", timedelta(seconds=90)),
    ("snapshot_timeout: 6h", "snapshot_timeout", timedelta(hours=6)),
    ("missed_within: 1d", "missed_within", timedelta(days=1)),
    ("hold_manual: 14d", "hold_manual", timedelta(days=14)),
    ("hold_manual: 0s", "hold_manual", timedelta(0)),
    ("adopt: ['a-*', b]", "adopt", ("a-*", "b")),
    ("adopt: []", "adopt", ()),
    ("when_full: replace_last", "when_full", WhenFull.REPLACE_LAST),
    ("on_stop_timeout: hard_stop", "on_stop_timeout", OnStopTimeout.HARD_STOP),
    ("missed: skip", "missed", Missed.SKIP),
    ("stop_first: true", "stop_first", True),
    ("paused: TRUE", "paused", True),
    ("timezone: America/New_York", "timezone", "America/New_York"),
]


@pytest.mark.parametrize(("text", "key", "value"), POLICIES)
def test_a_policy_key_means_what_it_says(text: str, key: str, value: object) -> None:
    assert getattr(policy(text), key) == value


SETTINGS = [
    ("listen: off", "listen", None),
    ('listen: "off"', "listen", None),
    ('listen: "[::1]:9877"', "listen", ("::1", 9877)),
    ("listen: 0.0.0.0:80", "listen", ("0.0.0.0", 80)),
    ("listen: localhost:0", "listen", ("localhost", 0)),
    ("state: /var/lib/x.db", "state", "/var/lib/x.db"),
    ("state: postgresql://me:pw@db/x", "state", "postgresql://me:pw@db/x"),
    ("own_server: none", "own_server", "none"),
    ("own_server: 12345", "own_server", "12345"),
    ('own_server: "12345"', "own_server", "12345"),
    ("own_server: 0b2f7f3e-7d2a-4f06-8b1d-0d6a3c3b6a11", "own_server", "0b2f7f3e-7d2a-4f06-8b1d-0d6a3c3b6a11"),
    ("limit: 5", "own_server", None),
    ("limit: 5", "metrics", MetricsSettings(per_server=PerServer.ALL)),
    ("metrics: {per_server: problems}", "metrics", MetricsSettings(per_server=PerServer.PROBLEMS)),
    ("instance: staging_2", "instance", "staging_2"),
    ("poll_interval: 0.5s", "poll_interval", 0.5),
    ("drain_timeout: 2m", "drain_timeout", 120.0),
    ("discover_interval: 1h", "discover_interval", 3600.0),
    ("limit: 6", "limit", 6),
    ("max_concurrent: 1", "max_concurrent", 1),
]


@pytest.mark.parametrize(("text", "key", "value"), SETTINGS)
def test_a_setting_means_what_it_says(text: str, key: str, value: object) -> None:
    assert getattr(config(text), key) == value


API = [
    ("base_url: https://admin.vps.org/api/", "base_url", "https://admin.vps.org/api"),
    ("base_url: HTTPS://admin.vps.org", "base_url", "HTTPS://admin.vps.org"),
    ("base_url: http://127.0.0.1:8080/api/v1", "base_url", "http://127.0.0.1:8080/api/v1"),
    ("base_url: http://127.9.9.9", "base_url", "http://127.9.9.9"),
    ("base_url: 'http://[::1]:80/'", "base_url", "http://[::1]:80"),
    ("base_url: http://localhost:1", "base_url", "http://localhost:1"),
    ("token_file: /run/token", "token_file", Path("/run/token")),
    ("requests_per_second: 2", "requests_per_second", 2.0),
    ("requests_per_second: 1e2", "requests_per_second", 100.0),
    ("timeout: 200ms", "timeout", 0.2),
    ("settle: 0s", "settle", 0.0),
]


@pytest.mark.parametrize(("text", "key", "value"), API)
def test_an_api_setting_means_what_it_says(text: str, key: str, value: object) -> None:
    assert getattr(config(f"api:\n  {text}").api, key) == value


def test_the_state_is_in_the_directory_that_systemd_gives() -> None:
    assert config("", STATE_DIRECTORY="/var/lib/snaprotd").state == "/var/lib/snaprotd/state.db"


def test_the_first_of_several_state_directories_is_taken() -> None:
    assert config("", STATE_DIRECTORY="/var/lib/a:/var/lib/b").state == "/var/lib/a/state.db"


@pytest.mark.parametrize(
    ("user", "environ", "state"),
    [
        (0, {"HOME": "/root", "XDG_STATE_HOME": "/x"}, "/var/lib/snaprotd/state.db"),
        (1000, {"HOME": "/home/me"}, "/home/me/.local/state/snaprotd/state.db"),
        (1000, {"HOME": "/home/me", "XDG_STATE_HOME": "/x"}, "/x/snaprotd/state.db"),
        (1000, {"HOME": "/home/me", "XDG_STATE_HOME": "x"}, "/home/me/.local/state/snaprotd/state.db"),
        (1000, {}, "./snaprotd-state.db"),
    ],
)
def test_without_a_service_manager_the_ledger_is_in_one_place_wherever_snaprotd_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, environ: dict[str, str], state: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert config("", **environ).state == state


def test_each_file_has_a_folder_for_notes_of_its_own(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    one, same, other = (notes_directory(Path(name), home) for name in ("/c.yaml", "/c.yaml", "/d.yaml"))
    assert one is not None
    assert (one == same, one == other, tmp_path / ".local/state/snaprotd" in one.parents) == (True, False, True)
    assert notes_directory(Path("/c.yaml"), {"STATE_DIRECTORY": "/given", **home}) == Path("/given")
    xdg = notes_directory(Path("/c.yaml"), {"XDG_STATE_HOME": str(tmp_path / "x"), **home})
    assert (xdg is not None and tmp_path / "x/snaprotd" in xdg.parents, notes_directory(Path("c"), {})) == (True, None)


def test_a_state_in_the_file_wins_over_the_environment() -> None:
    assert config("state: /x.db", STATE_DIRECTORY="/var/lib/a").state == "/x.db"


def test_a_password_in_the_state_is_not_in_the_repr() -> None:
    assert "hush" not in repr(config("state: postgresql://me:hush@db/x"))


# --- YAML 1.1's traps --------------------------------------------------------------------------------------------

WORDS = [
    ("no", "no"),
    ("NO", "NO"),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("22:30", "22:30"),
    ("190:20:30", "190:20:30"),
    ("0600", "0600"),
    ("0o17", "0o17"),
    ("0x1F", "0x1F"),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("-012", "-012"),
    ("2025-01-16", "2025-01-16"),
    ("1.2.3", "1.2.3"),
    ("=", "="),
    ("<<", "<<"),
    ("'5'", "5"),
    ('"true"', "true"),
    ("nUll", "nUll"),
    ("None", "None"),
    ("tRue", "tRue"),
    ("nan", "nan"),
    ("inf", "inf"),
    ("1e", "1e"),
    ("+", "+"),
    (".", "."),
    ("0", 0),
    ("-7", -7),
    ("+7", 7),
    ("1e3", 1000.0),
    ("1.", 1.0),
    (".5", 0.5),
    ("-0.25", -0.25),
    (".inf", float("inf")),
    ("-.INF", float("-inf")),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
]


@pytest.mark.parametrize(("word", "value"), WORDS)
def test_a_plain_word_comes_out_as_what_was_written(word: str, value: object) -> None:
    found = yaml_nodes.read(f"key: {word}").value()
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize("word", ["no", "0600", "22-30", "on", "1_000"])
def test_a_name_and_an_id_may_be_words_that_other_readers_turn_into_something_else(word: str) -> None:
    entry = parse(f'servers: [{{id: {word}, name: {word}, schedule: "@daily"}}]', "c.yaml", {}).entries[0]
    assert (entry.key, entry.name) == (word, word)


def test_a_list_shared_by_alias_is_read_for_each_user() -> None:
    text = 'defaults: {schedule: &s ["@daily", "@hourly"]}\nservers: [{id: 1, schedule: *s}, {id: 2, schedule: *s}]\n'
    assert {entry.policy.schedule for entry in parse(text, "c.yaml", {}).entries} == {slots("@daily", "@hourly")}


def test_ten_thousand_servers_may_share_one_mapping_by_alias() -> None:
    servers = "".join(f"  - {{id: {number}, keep: *k}}\n" for number in range(1, 10_001))
    text = f'policies: {{p: {{keep: &k {{last: 1, daily: 1}}}}}}\ndefaults: {{schedule: "@daily"}}\nservers:\n{servers}'
    assert len(parse(text, "c.yaml", {}).entries) == 10_000


@given(st.text())
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    lines = yaml_nodes.lines_of(text)
    for mistake in caught.value.mistakes:
        assert 1 <= (mistake.line or 0) <= len(lines) + 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,9}x", fullmatch=True), inner),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_read_as_what_it_means(value: object) -> None:
    document = yaml_nodes.read(json.dumps(value))
    assert (document.value(), document.flaws) == (value, ())


@given(st.dictionaries(st.sampled_from(sorted(FileKeys.__annotations__)), VALUES, min_size=1))
def test_whatever_stands_under_the_keys_no_mistake_is_told_twice_or_in_jargon(value: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps(value), "c.yaml", {})
    texts = [str(mistake) for mistake in caught.value.mistakes]
    assert len(texts) == len(set(texts))
    assert not re.search("Input|discriminator|\x00|valid (string|dict|int)|something else", "\n".join(texts))


# --- Layers ------------------------------------------------------------------------------------------------------

LAYERED = """
defaults: {timezone: Europe/Berlin, keep: 2, schedule: "@hourly"}
policies:
  nightly: {schedule: "30 3 * * *", keep: {last: 1, daily: 2}, stop_first: true}
servers:
  - {id: 1, policy: nightly, keep: 3}
  - {id: 2, policy: nightly}
  - {id: 3}
"""


def test_a_servers_own_key_wins_over_its_policy_and_that_over_the_defaults() -> None:
    policies = [entry.policy for entry in parse(LAYERED, "c.yaml", {}).entries]
    assert [each.keep for each in policies] == [Retention(last=3), Retention(last=1, daily=2), Retention(last=2)]
    assert [each.schedule for each in policies] == [
        slots("30 3 * * *", timezone="Europe/Berlin"),
        slots("30 3 * * *", timezone="Europe/Berlin"),
        slots("@hourly", timezone="Europe/Berlin"),
    ]
    assert [each.stop_first for each in policies] == [True, True, False]


def test_the_layer_of_each_key_is_known() -> None:
    origins = parse(LAYERED, "c.yaml", {}).entries[0].origins
    assert origins.keys() == {each.name for each in fields(Policy)} | {"timezone", "window"}
    told = {key: origins[key] for key in ("timezone", "schedule", "keep", "paused")}
    assert told == {
        "timezone": "defaults",
        "schedule": "policies.nightly",
        "keep": "servers[0]",
        "paused": "default",
    }


def test_servers_without_keys_of_their_own_share_what_their_policy_comes_to_and_no_other_does() -> None:
    more = "  - {id: 4, policy: nightly}\n  - {id: 5, policy: nightly, paused: true}\n  - {id: 6}\n"
    own, nightly, plain, again, paused, last = parse(LAYERED + more, "c.yaml", {}).entries
    assert again.policy is nightly.policy
    assert last.policy is plain.policy
    assert (again.origins, last.origins) == (nightly.origins, plain.origins)
    assert (own.policy, paused.policy) == (
        replace(nightly.policy, keep=Retention(last=3)),
        replace(nightly.policy, paused=True),
    )
    assert (nightly.origins["keep"], own.origins["keep"]) == ("policies.nightly", "servers[0]")
    assert (plain.origins["paused"], paused.origins["paused"]) == ("default", "servers[4]")


def test_rules_of_an_upper_layer_replace_those_below_and_are_not_mixed_with_them() -> None:
    text = 'defaults: {keep: {last: 2, daily: 2}}\nservers: [{id: 1, schedule: "@daily", keep: {weekly: 1}}]'
    assert parse(text, "c.yaml", {}).entries[0].policy.keep == Retention(weekly=1)


def test_a_schedule_and_its_zone_may_come_from_different_layers() -> None:
    text = 'policies: {p: {schedule: "@daily"}}\nservers: [{id: 1, policy: p, timezone: Asia/Tokyo}]'
    found = parse(text, "c.yaml", {}).entries[0].policy
    assert found.schedule == slots("@daily", timezone="Asia/Tokyo")


# --- Servers of the account --------------------------------------------------------------------------------------


def server(number: int | str, name: str) -> Server:
    return a_server(number, name)


def targets(entries: str, *servers: Server) -> list[tuple[str, str, int]]:
    """Id, label and `keep` of each target of a file with `entries`."""
    found = parse(f'defaults: {{schedule: "@daily"}}\nservers: [{entries}]', "c.yaml", {})
    return [_seen(target) for target in resolve(found, servers)]


def _seen(target: Target) -> tuple[str, str, int]:
    return target.server_id, target.label, target.policy.keep.last


def test_a_server_by_id_is_labelled_with_its_own_name_else_its_id() -> None:
    assert targets("{id: 7, name: web}, {id: 8}", server(7, "other"), server(8, "y")) == [
        ("7", "web", 4),
        ("8", "8", 4),
    ]


def test_without_the_account_only_the_ids_are_resolved() -> None:
    found = parse('servers: [{id: 7, schedule: "@daily"}, {match: "*", schedule: "@daily"}]', "c.yaml", {})
    assert [target.server_id for target in resolve(found, None)] == ["7"]


@pytest.mark.parametrize("shown", [("7", "uuid-7"), ("uuid-7", "7"), ("8", "7")])
def test_a_server_is_looked_after_under_whichever_of_its_ids_the_file_has(shown: tuple[str, str]) -> None:
    """Also where the account still shows it by another one, which the file had before."""
    assert targets("{id: 7, name: web}", replace(server(shown[0], "x"), also=shown[1:])) == [("7", "web", 4)]


def test_a_server_under_two_of_its_ids_in_the_file_is_one() -> None:
    both = '{id: 7, name: web}, {id: "uuid-7", name: too}'
    assert targets(both, replace(server("uuid-7", "x"), also=("7",))) == [("uuid-7", "too", 4)]


def test_a_server_by_id_needs_not_be_in_the_account() -> None:
    assert targets("{id: 7}", server(8, "y")) == [("7", "7", 4)]


def test_every_server_whose_name_matches_is_taken() -> None:
    account = (server(1, "web-1"), server(2, "db-1"), server("u-3", "web-2"))
    assert targets('{match: "web-*"}', *account) == [("1", "web-1", 4), ("u-3", "web-2", 4)]


def test_a_pattern_minds_upper_and_lower_case() -> None:
    assert targets('{match: "web*"}', server(1, "Web-1")) == []


def test_an_id_wins_over_a_match_wherever_it_stands() -> None:
    assert targets('{match: "*", keep: 1}, {id: 1, keep: 2}', server(1, "a")) == [("1", "1", 2)]


def test_the_first_match_wins_over_a_later_one() -> None:
    assert targets('{match: "web-*", keep: 1}, {match: "*", keep: 2}', server(1, "web-1"), server(2, "x")) == [
        ("1", "web-1", 1),
        ("2", "x", 2),
    ]


def test_two_servers_of_one_name_go_by_their_ids() -> None:
    assert targets('{match: "*"}', server(1, "a"), server(2, "a"), server(3, "b")) == [
        ("1", "1", 4),
        ("2", "2", 4),
        ("3", "b", 4),
    ]


def test_a_server_whose_name_is_taken_by_a_label_goes_by_its_id() -> None:
    assert targets('{id: 1, name: web}, {match: "*"}', server(2, "web")) == [("1", "web", 4), ("2", "2", 4)]


def test_a_server_whose_name_is_the_id_of_another_goes_by_its_id() -> None:
    assert targets('{match: "*"}', server(1, "2"), server(2, "b")) == [("1", "1", 4), ("2", "b", 4)]


def test_a_server_whose_very_id_is_a_label_gets_one_that_is_free() -> None:
    assert targets('{id: 1, name: "2"}, {match: "*"}', server(2, "b"), server(3, "b")) == [
        ("1", "2", 4),
        ("2", "id:2", 4),
        ("3", "3", 4),
    ]


def test_a_server_listed_twice_is_one_target() -> None:
    assert targets('{match: "*"}', server(1, "a"), server(1, "a")) == [("1", "a", 4)]


NAMES = st.sampled_from(["a", "b", "web", "", "1", "2", "3", "id:2"])


@given(st.lists(st.tuples(st.integers(1, 5), NAMES), max_size=6), st.sampled_from(["2", "web", "9", "id:3"]))
def test_labels_are_unique_whatever_the_account_holds(account: list[tuple[int, str]], name: str) -> None:
    found = targets(f'{{id: 1, name: "{name}"}}, {{match: "*"}}', *(server(*each) for each in account))
    labels = [label for _, label, _ in found]
    assert len(labels) == len(set(labels))
    assert all(labels)


# --- The file ----------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return str(caught.value)


def test_the_option_wins_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert find_config(str(tmp_path / "a"), {"SNAPROTD_CONFIG": "/nowhere"}) == tmp_path / "a"


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    assert find_config(None, {"SNAPROTD_CONFIG": str(tmp_path / "b")}) == tmp_path / "b"


MISSING = [
    ("/no/a.yaml", {}, "/no/a.yaml: no such file (named by --config)"),
    (None, {"SNAPROTD_CONFIG": "/no/b.yaml"}, "/no/b.yaml: no such file (named by $SNAPROTD_CONFIG)"),
]


@pytest.mark.parametrize(("option", "environ", "message"), MISSING)
def test_a_missing_file_is_told_with_who_named_it(option: str | None, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_config(option, environ)
    assert str(caught.value) == message


def test_mistakes_name_the_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("servers: 5")
    assert refusal(Path("c.yaml")) == "c.yaml:1:10: servers: should be a list, not `5`"


def test_a_file_that_vanished_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x") == f"{tmp_path}/x: no such file"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: a directory, not a file: name the file in it"


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    with as_nobody():
        assert "permission denied" in refusal(tmp_path / "x")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"# good\n# b\xf6se\n")
    assert refusal(tmp_path / "x") == f"{tmp_path}/x: not UTF-8 text (line 2): save the file as UTF-8"


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    assert refusal(tmp_path / "x") == f"{tmp_path}/x: larger than 4 MiB: this is no configuration of snaprotd"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    with standing_at(path, kind):
        for read in (load, digest_of):
            with pytest.raises(ConfigError, match=f"x: {kind}, not a file"):
                read(path)


def test_a_file_behind_symbolic_links_is_read(tmp_path: Path) -> None:
    """As Kubernetes mounts it."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "x").write_text(SMALLEST)
    (tmp_path / "x").symlink_to("..data/x")
    assert len(load(tmp_path / "x", {}).entries) == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_file_from_any_editor_is_read(tmp_path: Path, ending: str, start: str) -> None:
    (tmp_path / "x").write_bytes((start + LAYERED.replace("\n", ending)).encode())
    assert len(load(tmp_path / "x", {}).entries) == 3


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\ufeff" + SMALLEST)
    assert load(tmp_path / "x", {}).digest == digest_of(tmp_path / "x")


def test_the_digest_changes_with_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(SMALLEST)
    before = digest_of(tmp_path / "x")
    (tmp_path / "x").write_text(SMALLEST + "\n")
    assert digest_of(tmp_path / "x") != before


# --- Schema and example ------------------------------------------------------------------------------------------

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
GOOD = [
    LAYERED,
    EXAMPLE.read_text(),
    *(f"{text}\n{SMALLEST}" for text, _, _ in SETTINGS),
    *(f"api: {{{text}}}\n{SMALLEST}" for text, _, _ in API),
    *(f"defaults:\n  {text}\n{SMALLEST}" for text, _, _ in POLICIES),
]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("text", GOOD)
def test_a_good_file_fits_the_schema(text: str) -> None:
    parse(text, "c.yaml", {})
    VALIDATOR.validate(yaml_nodes.read(text).value())


def test_the_schema_tells_the_defaults_that_hold() -> None:
    schema = json_schema()
    told = {key: value.get("default") for key, value in schema["$defs"]["PolicyKeys"]["properties"].items()}
    given = json.dumps({key: value for key, value in told.items() if value is not None})
    found = parse(f"defaults: {given}\n{SMALLEST}", "c.yaml", {}).entries[0]
    assert found.policy == a_policy("@daily")
    assert told["missed_within"] == "1d"
    assert schema["properties"]["listen"]["default"] == "127.0.0.1:9877"
    assert schema["$defs"]["ApiKeys"]["properties"]["settle"]["default"] == "2m"


def test_the_keys_of_a_policy_are_the_fields_of_the_model() -> None:
    elsewhere = {"timezone", "window", "ping"}
    assert set(PolicyKeys.__annotations__) == {each.name for each in fields(Policy)} | elsewhere
    assert set(RetryKeys.__annotations__) == {each.name for each in fields(Retry)}
    assert set(RetentionKeys.__annotations__) == {each.name for each in fields(Retention)}


def test_the_example_is_good() -> None:
    assert len(load(EXAMPLE, {}).entries) == 3


def test_the_example_begins_with_its_schema_for_editors() -> None:
    assert EXAMPLE.read_text().splitlines()[0] == "# yaml-language-server: $schema=snaprotd.schema.json"


def written_keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(written_keys, value.values()))
    return set().union(*map(written_keys, value)) if isinstance(value, list) else set()


ALL_KEYS = sorted(
    {
        key
        for shape in (
            FileKeys,
            ApiKeys,
            PolicyKeys,
            RetentionKeys,
            RetryKeys,
            ServerKeys,
            NotifyKeys,
            HeartbeatKeys,
            MetricsKeys,
            *SHAPES.values(),
        )
        for key in shape.__annotations__
    }
)
HEADINGS = ("api", "metrics", "defaults", "policies", "servers")


@pytest.mark.parametrize("key", ALL_KEYS)
def test_the_example_shows_every_key(key: str) -> None:
    assert key in written_keys(yaml_nodes.read(EXAMPLE.read_text()).value())


@pytest.mark.parametrize("key", [key for key in ALL_KEYS if key not in HEADINGS])
def test_the_example_explains_every_key(key: str) -> None:
    assert re.search(rf"^ *# .*\n(?: *# .*\n)* *(?:- )?{key}:", EXAMPLE.read_text(), re.MULTILINE)


SHOWN_AS_EXAMPLE = {"spread", "schedule", "stop_first", "adopt", "paused", "keep", "one_at_a_time"}


def test_the_example_shows_the_defaults_unless_it_says_otherwise() -> None:
    nightly, default = load(EXAMPLE, {}).entries[0].policy, a_policy()
    differing = {each.name for each in fields(Policy) if getattr(nightly, each.name) != getattr(default, each.name)}
    assert differing <= SHOWN_AS_EXAMPLE


@given(st.integers(0, 10**9))
def test_a_duration_reads_back_as_it_is_shown(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    if duration <= timedelta(days=1):
        assert policy(f"spread: {shown_duration(duration)}").spread == duration
