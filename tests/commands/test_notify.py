"""`snaprotd notify` as a user runs it, and what `check --online` says of channels."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from pathlib import Path

import pytest

from snaprotd.simulator import World
from tests.support.processes import TOKEN, provider, run
from tests.support.receivers import Asked, Healthchecks, Receiver, answer, receiver, secret

pytestmark = pytest.mark.real_time

SERVERS = 'servers: [{id: 12345, schedule: "@daily"}]\n'
HOOK = "T0Q7ZK31zX9kPq81"


def configured(folder: Path, there: Receiver, check: str, *, base_url: str = "") -> str:
    secret(folder, "hook", f"{there.url}/{HOOK}")
    secret(folder, "check", f"{there.url}/{check}")
    path = folder / "config.yaml"
    api = f"api: {{base_url: '{base_url}'}}\n" if base_url else ""
    path.write_text(
        f"{api}notify:\n  - webhook: {{url_file: {folder}/hook}}\n  - ping: {{url_file: {folder}/check}}\n"
        f"heartbeat: {{url_file: {folder}/check}}\nlisten: off\nstate: {folder}/state.db\n{SERVERS}"
    )
    return str(path)


async def test_one_message_goes_to_each_channel_and_what_came_back_is_said(tmp_path: Path) -> None:
    rules = Healthchecks()

    def answers(asked: Asked) -> bytes:
        return answer(200, "fine") if HOOK in asked.target else rules(asked)

    async with receiver(answers) as there:
        ended = await run("notify", "--test", "--config", configured(tmp_path, there, rules.check))
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[:2] for line in ended.out.splitlines()] == [
        ["ok", "webhook"],
        ["ok", "ping"],
        ["ok", "heartbeat"],
    ]
    assert "HTTP 200" in ended.out
    (told,) = (json.loads(one.body) for one in there.asked if HOOK in one.target)
    assert (told["kind"], told["severity"], told["server"]) == ("test", "ok", None)
    assert sorted(event for event, _, _ in rules.runs) == ["log", "success"], "the other one is the heartbeat"
    assert HOOK not in ended.out


async def test_what_is_not_taken_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    async with receiver(lambda asked: answer(403, f"no {asked.target}")) as there:
        ended = await run("notify", "--test", "--config", configured(tmp_path, there, "a-check-123"))
    assert ended.code == 1
    assert "PROBLEM  webhook" in ended.out
    assert "PROBLEM  heartbeat" in ended.out
    assert "HTTP 403: no /[token]" in ended.out
    assert HOOK not in ended.out + ended.err


async def test_a_heartbeat_whose_check_is_not_there_is_a_failure_with_what_it_said(tmp_path: Path) -> None:
    rules = Healthchecks()
    async with receiver(lambda asked: answer(200) if HOOK in asked.target else rules(asked)) as there:
        ended = await run("notify", "--test", "--config", configured(tmp_path, there, "another-check"))
    assert ended.code == 1
    heartbeat = ended.out.splitlines()[-1]
    assert heartbeat.startswith("PROBLEM  heartbeat")
    assert heartbeat.endswith("HTTP 200, but not OK: OK (not found)")


async def test_a_receiver_that_answers_with_the_token_shows_it_to_nobody(tmp_path: Path) -> None:
    echo = f"{TOKEN} {b64encode(TOKEN.encode()).decode()} \x1b[2J{TOKEN}"
    async with receiver(lambda _: answer(500, echo)) as there:
        ended = await run("notify", "--test", "--config", configured(tmp_path, there, "a-check-123"))
    assert re.search(r"HTTP 500: \[token\] \[token\]\S* \W*\[2J\[token\]", ended.out)
    assert "\x1b" not in ended.out


async def test_without_test_nothing_is_sent_and_what_is_wrong_with_files_and_names_is_said(tmp_path: Path) -> None:
    async with receiver() as there:
        path = configured(tmp_path, there, "a-check-123")
        assert (await run("notify", "--config", path)).code == 0
        secret(tmp_path, "hook", "https://nowhere.invalid/x1234567")
        (tmp_path / "check").unlink()
        ended = await run("notify", "--config", path)
    assert (ended.code, there.asked) == (1, [])
    assert "the receiver in" in ended.out
    assert "No such file" in ended.out


async def test_a_configuration_that_tells_nobody_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SERVERS)
    ended = await run("notify", "--test", "--config", str(tmp_path / "config.yaml"))
    assert (ended.code, "nobody is told of anything" in ended.err) == (1, True)


async def test_check_online_looks_at_files_and_names_and_sends_nothing(tmp_path: Path) -> None:
    world = World(token=TOKEN)
    world.add_server("web-01")
    async with provider(world) as api, receiver() as there:
        path = configured(tmp_path, there, "a-check-123", base_url=api.base_url)
        (tmp_path / "check").unlink()
        ended = await run("check", "--online", "--config", path)
    assert (ended.code, there.asked) == (1, [])
    assert f"ok       webhook: the URL in {tmp_path}/hook" in ended.out
    assert "PROBLEM  ping: " in ended.out
