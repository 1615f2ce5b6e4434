"""What others have named or said repaints nothing, is taken for nothing else, and is quoted on a command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import category

import httpx
import pytest
from click.testing import CliRunner

from snaprotd.commands.cli import cli
from snaprotd.commands.common import complain
from snaprotd.commands.jobs.status_client import Place, read_status
from snaprotd.core.holds import bears_our_name, name_read
from snaprotd.core.model import Owner, ServerState, SnapshotState
from snaprotd.core.ownership import owner_of
from snaprotd.core.words import LONGEST_TEXT, UNSEEN, in_one_line, printable
from snaprotd.provider.vps_org import answers
from snaprotd.provider.vps_org.body import UnreadableError
from snaprotd.report.status import VERSION
from snaprotd.simulator import World
from tests.support.daemons import write_config
from tests.support.virtual_time import START
from tests.support.world_transport import WorldTransport

OURS = "snaprotd-main-20250116T030000Z"
PAINT = {
    "a terminal's escape": "\x1b[2J\x1b[1;1H",
    "a title, and what a terminal would answer": "\x1b]0;root@host\x07",
    "a link": "\x1b]8;;http://evil.invalid\x1b\\",
    "a C1 control": "\x9b31m",
    "a line of its own": "\r\nall is well\n",
    "another line": "\u2028",
    "text that runs backwards": "\u202egnp.\u2066",
    "what nobody sees": "\u200b\u200d\ufeff\u2060\u00ad",
    "a letter that nobody sees": "\u3164\u115f\u2800",
    "a sign's variant": "\ufe0f\U000e0101",
    "half a character": "\ud800",
    "a tag": "\U000e0041",
    "NUL, DEL and backspace": "\x00\x7f\x08",
    "a blank that is none": "\u00a0\u3000",
}
with_any_paint = pytest.mark.parametrize("paint", PAINT)


def is_fit(text: str) -> bool:
    """Judged by Unicode's own categories, and by what is known to be blank: not by what we take for printable."""
    unseen = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return not any(category(one) in unseen or one in "\u3164\u115f\u2800\ufe0f\u00a0\u3000\U000e0101" for one in text)


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "server": {"id": 12345, "name": "web-01"}, "name": "s1", "status": "completed"} | changes


# -- where answers are read --------------------------------------------------------------------------------------------


@with_any_paint
def test_every_text_that_is_read_is_fit_to_be_shown(paint: str) -> None:
    text = f"web{PAINT[paint]}01"
    one = answers.read_snapshot(entry(name=text, status=text, description=text, server={"id": 2, "name": text}))
    server = answers.read_server({"id": 2, "name": text, "hostname": text, "status": text, "ip_address": text})
    owner = answers.read_token_owner({"account": {"email": text}, "token": {"name": text, "permissions": [text, text]}})
    texts = [one.name, one.status, one.description, one.server_name, server.name, server.hostname, server.status]
    texts += [server.ip_address, owner.token_name, *(owner.permissions or ())]
    assert [text for text in texts if not is_fit(text)] == []
    assert all(text.startswith("web") and text.endswith("01") for text in texts)
    assert owner.email == ""  # it tells accounts apart: changed, it might be another's


@with_any_paint
def test_the_words_of_an_error_are_one_fit_line(paint: str) -> None:
    said = json.dumps({"detail": f"so {PAINT[paint]} it is", PAINT[paint]: [PAINT[paint]]}).encode()
    assert is_fit(answers.error_text(said))
    fields = json.dumps({PAINT[paint]: [PAINT[paint]]}).encode()
    assert is_fit(answers.error_text(fields))
    assert is_fit(str(UnreadableError(f"server {PAINT[paint]!r} {PAINT[paint]}")))


def test_a_text_has_two_hundred_characters_at_the_most() -> None:
    long = "n" * 100_000
    one = answers.read_snapshot(entry(name=long, status=long, description=long, server={"id": 2, "name": long}))
    said = answers.error_text(json.dumps({"detail": long[:50_000]}).encode())
    for text in (one.name, one.status, one.description, one.server_name, said):
        assert len(text) == LONGEST_TEXT
        assert text.endswith("…")


def test_a_plain_text_is_left_as_it_is() -> None:
    for plain in ("web-01", "Übung, naïve «x»", "日本語", "emoji 🙂", "e\u0301", "  two  blanks ", "x" * LONGEST_TEXT):
        assert printable(plain) == plain
    assert in_one_line("of two\n lines\tand more ") == "of two lines and more"


# -- what identifies is not changed in silence -----------------------------------------------------------------------


@with_any_paint
@pytest.mark.parametrize("place", ["in front", "within", "at the end"])
def test_a_name_that_only_looks_like_ours_is_not_ours(paint: str, place: str) -> None:
    at = {"in front": 0, "within": 14, "at the end": len(OURS)}[place]
    one = answers.read_snapshot(entry(name=OURS[:at] + PAINT[paint] + OURS[at:], created_at="2025-01-16T03:00:00Z"))
    assert UNSEEN in one.name
    assert not bears_our_name(one.name, "main")
    assert name_read(one.name) is None
    assert owner_of(one, instance="main", adopt=()) is Owner.FOREIGN
    assert owner_of(one, instance="main", adopt=(OURS, "snaprotd-main-[0-9]*Z", "web-01")) is Owner.FOREIGN


def test_a_long_name_whose_beginning_looks_like_one_that_is_adopted_is_not() -> None:
    cut = "n" * (LONGEST_TEXT - 4) + "-old"
    one = answers.read_snapshot(entry(name=f"{cut}-but-keep-it"))
    assert owner_of(one, instance="main", adopt=("*-old",)) is Owner.FOREIGN


@with_any_paint
def test_two_ids_that_differ_in_what_nobody_sees_do_not_become_one(paint: str) -> None:
    """Such an id is none: its entry cannot be read, and puts its list in doubt."""
    for bad in (f"12345{PAINT[paint]}", f"{PAINT[paint]}12345", "a" + UNSEEN):
        with pytest.raises(UnreadableError, match="without an id"):
            answers.read_snapshot(entry(id=bad))
        with pytest.raises(UnreadableError, match="without a server"):
            answers.read_snapshot(entry(server={"id": bad, "name": "web-01"}))
        with pytest.raises(UnreadableError, match="without an id"):
            answers.read_server({"id": bad, "uuid": bad})


@with_any_paint
def test_a_status_that_only_looks_like_one_is_none_that_is_known(paint: str) -> None:
    assert answers.read_snapshot(entry(status=f"completed{PAINT[paint]}")).state is SnapshotState.UNKNOWN
    assert answers.read_snapshot(entry(status=f"{PAINT[paint]}failed")).state is SnapshotState.UNKNOWN
    assert answers.read_server({"id": 1, "status": f"stopped{PAINT[paint]}"}).state is ServerState.BETWEEN


# -- the ways out -----------------------------------------------------------------------------------------------------


def test_no_command_paints_and_the_prompt_of_restore_says_which_server_it_is(
    tmp_path: Path, commands_reach: Callable[[httpx.AsyncBaseTransport], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = "".join(PAINT.values())
    world = World()
    server_id = world.add_server(f"web{everything}01")
    made = world.add_snapshot(server_id, f"by{everything}hand", created_at=START)
    made.description = everything
    commands_reach(WorldTransport(world, latency=0))
    monkeypatch.setenv("VPS_API_TOKEN", world.token)
    path = write_config(tmp_path, "[{match: '*', schedule: '0 3 * * *'}]")
    for command in (["list"], ["list", "--json"], ["plan"], ["plan", "--json"], ["check", "--online"]):
        ended = CliRunner().invoke(cli, [*command, "--config", str(path)])
        assert is_fit(ended.output.replace("\n", "")), command
        assert "web" in ended.output
    ended = CliRunner().invoke(cli, ["restore", str(made.id), "--config", str(path)], input="web01\n")
    assert is_fit(ended.output.replace("\n", ""))
    assert f"(web{UNSEEN}" in ended.output
    assert "That is not the server's name: nothing was done." in ended.output


def test_what_a_complaint_quotes_paints_nothing_either(capsys: pytest.CaptureFixture[str]) -> None:
    """A script hands on a name that it has read somewhere."""
    complain("".join(f"no server is named x{one}\n" for one in PAINT.values() if one != "\n"))
    said = capsys.readouterr().err
    assert "no server is named x" in said
    assert is_fit(said.replace("\n", ""))


@pytest.mark.real_time
async def test_whatever_answers_where_the_daemon_listens_paints_nothing() -> None:
    paint = "".join(PAINT.values())
    bodies = [json.dumps({"version": VERSION, "state": paint, paint: [{"text": paint}]}), "[" * 1_000_000, paint * 100]
    said = iter(bodies)

    async def squat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(said, None)
        head = "HTTP/1.1 200 OK" if body else f"HTTP/1.1 500 {PAINT['a title, and what a terminal would answer']}"
        content = (body or f"no \x1b[2J {paint}").encode("utf-8", "surrogatepass")
        writer.write(head.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        writer.close()

    squatter = await asyncio.start_server(squat, "127.0.0.1", 0)
    place = Place(f"http://127.0.0.1:{squatter.sockets[0].getsockname()[1]}")
    assert is_fit(json.dumps(await asyncio.to_thread(read_status, place, {}), ensure_ascii=False))
    for _ in range(3):
        with pytest.raises(Exception, match="what answers at") as refused:
            await asyncio.to_thread(read_status, place, {})
        assert is_fit(str(refused.value))
    squatter.close()


NAMES = ("my server", "$(touch owned)", "`touch owned`", "a'b", 'a"b', "a\\b", "a;touch owned", "*", "-rf", "~")


def test_what_is_completed_is_quoted_where_the_shell_does_not_do_it(tmp_path: Path) -> None:
    servers = [{"id": 1000 + number, "name": name, "schedule": "0 3 * * *"} for number, name in enumerate(NAMES)]
    path = write_config(tmp_path, json.dumps(servers))
    completed = CliRunner().invoke(
        cli,
        [],
        prog_name="snaprotd",
        env={
            "_SNAPROTD_COMPLETE": "bash_complete",
            "COMP_WORDS": f"snaprotd plan --config {path} ",
            "COMP_CWORD": "4",
        },
    )
    # As click's script for bash takes it up, and then as bash reads the line that it makes of it.
    script = """while IFS=',' read type value; do eval "set -- $value"; printf '%s\\n' "$#:$1"; done"""
    bash = subprocess.run(
        ["bash", "-c", script], input=completed.output, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert set(bash.stdout.splitlines()) >= {f"1:{name}" for name in NAMES}
    assert not (tmp_path / "owned").exists()
