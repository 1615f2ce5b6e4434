"""Programs that are given messages: which of them are run at all, with what, and for how long."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snaprotd.core.telling import Kind, Message
from snaprotd.senders import Outcome, program
from snaprotd.senders.program import Program, why_not_run

pytestmark = pytest.mark.real_time

MESSAGE = Message(
    id="5f0c",
    at=datetime(2025, 1, 16, 3, 31, tzinfo=UTC),
    kind=Kind.FAILURE,
    severity="alarm",
    server=None,
    text="the token is refused",
    do="Look.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o755)
    return made


def script(folder: Path, *lines: str, name: str = "notify") -> str:
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


async def test_it_is_given_the_message_on_its_input_its_own_arguments_and_nothing_of_our_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", "Zq7-only-the-provider")
    argv = [script(folder, f"cat > {folder}/input", f'echo "$@" > {folder}/words', f"env > {folder}/environment")]
    came_back = await Program([*argv, "one two", "$HOME;x"], folders=[folder]).send(MESSAGE)
    assert came_back.outcome is Outcome.SENT, came_back
    assert json.loads((folder / "input").read_text()) == MESSAGE.as_json()
    assert (folder / "words").read_text() == "one two $HOME;x\n"
    assert "Zq7" not in (folder / "environment").read_text()


async def test_how_it_ends_is_told_with_the_beginning_of_what_it_says(folder: Path) -> None:
    argv = [script(folder, "echo no such room >&2", "yes | head -c 1000000 >&2", "exit 3")]
    came_back = await Program(argv, folders=[folder]).send(MESSAGE)
    assert came_back.outcome is Outcome.FAILED
    assert "notify ended with 3: no such room y y" in came_back.said
    assert len(came_back.said) <= 310


async def test_one_that_hangs_is_killed_with_all_that_it_has_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PATIENCE", 0.3)
    argv = [script(folder, "sleep 60 &", f"echo $! > {folder}/pid", "wait")]
    async with asyncio.timeout(30):  # it would be waited for as long as one that it has started lives
        came_back = await Program(argv, folders=[folder]).send(MESSAGE)
    assert (came_back.outcome, "was killed" in came_back.said) == (Outcome.FAILED, True)
    pid = int((folder / "pid").read_text())
    async with asyncio.timeout(5):
        while _runs(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_whom_it_leaves_behind_in_a_session_of_his_own_makes_no_failure_of_its_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "LAST_WORDS", 0.05)
    argv = [script(folder, "setsid sleep 60 &", f"echo $! > {folder}/pid", "exit 0")]
    began = asyncio.get_running_loop().time()
    came_back = await Program(argv, folders=[folder]).send(MESSAGE)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    assert (came_back.outcome, asyncio.get_running_loop().time() - began < program.PATIENCE) == (Outcome.SENT, True)


def _runs(pid: int) -> bool:
    """A zombie does not: nobody has asked yet how it ended."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_only_what_lies_in_the_folder_is_run(folder: Path, tmp_path: Path) -> None:
    assert why_not_run(Path(script(folder)), [folder]) == ""
    (folder / "shell").symlink_to("/bin/sh")
    deeper = folder / "deeper"
    deeper.mkdir()
    assert why_not_run(Path(script(deeper)), [tmp_path / "none", folder]) == ""
    elsewhere = [tmp_path / "other", folder / "shell", Path("notify"), folder / ".." / "other"]
    for path in (*elsewhere, Path(script(tmp_path, name="other"))):
        assert "programs are to lie in" in why_not_run(path, [folder]), path
    assert "cannot be run" in why_not_run(folder / "missing", [folder])


def test_nothing_is_run_that_another_user_may_have_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(script(folder))
    for mode in (0o775, 0o757):
        path.chmod(mode)
        assert "can be written by others" in why_not_run(path, [folder])
    path.chmod(0o755)
    for mode in (0o775, 0o777):
        folder.chmod(mode)
        assert "can be written by others" in why_not_run(path, [folder])
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert "belongs to user 12345" in why_not_run(path, [folder])
        os.chown(path, 0, 0)
        os.chown(folder, 12345, 12345)
        assert "belongs to user 12345" in why_not_run(path, [folder])
        os.chown(folder, 0, 0)
    path.chmod(0o644)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not executable" in why_not_run(path, [folder])


async def test_what_may_not_be_run_is_not(folder: Path, tmp_path: Path) -> None:
    argv = [script(tmp_path, f"touch {tmp_path}/done", name="theirs")]
    came_back = await Program(argv, folders=[folder]).send(MESSAGE)
    assert (came_back.outcome, (tmp_path / "done").exists()) == (Outcome.FAILED, False)
    assert list(await Program(argv, folders=[folder]).look()) == [came_back.said]
