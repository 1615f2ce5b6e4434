"""The exit codes of `status`: 0 all is well, 1 something to look at, 2 an alarm or nobody who answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from snaprotd.commands import cli
from tests.support.processes import write_config

WELL: dict[str, Any] = {
    "version": 1,
    "snaprotd": "1",
    "generated_at": "2025-01-16T03:00:00Z",
    "state": "ok",
    "problems": [],
    "servers": [],
    "departed": [],
}


def told(*severities: str, state: str = "ok", **changes: Any) -> dict[str, Any]:
    problems = [{"server": None, "server_id": None, "severity": one, "text": "x", "do": "y"} for one in severities]
    return {**WELL, "state": state, "problems": problems, **changes}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The address of somebody who answers everything with that."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["snaprotd", "status", *arguments])
    return cli._run()


REPORTS = [
    (told(), 0),
    (told("attention", state="attention"), 1),
    (told("attention", "alarm", state="alarm"), 2),
    (told("alarm", state="alarm"), 2),
    (told("attention"), 1),
    (told("alarm", state="attention"), 2),
    (told(state="alarm"), 2),
]


@pytest.mark.parametrize(("report", "code"), REPORTS)
def test_what_the_daemon_tells_is_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: dict[str, Any], code: int
) -> None:
    with answering(200, json.dumps(report).encode()) as url:
        assert code_of(monkeypatch, "--url", url) == code
        assert code_of(monkeypatch, "--url", url, "--exit-zero") == 0
        capsys.readouterr()
        assert code_of(monkeypatch, "--url", url, "--json") == code
        assert json.loads(capsys.readouterr().out) == report


STRANGERS = {
    "another word": (200, told(state="splendid")),
    "another severity": (200, told("catastrophe", state="attention")),
    "another version": (200, told(version=99)),
    "no problems at all": (200, {key: value for key, value in WELL.items() if key != "problems"}),
    "problems that are none": (200, told() | {"problems": ["x", 5]}),
    "no time": (200, told(generated_at=None)),
    "a list": (200, [WELL]),
    "an error": (500, WELL),
    "a password": (401, WELL),
    "another place": (302, {}),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_whoever_is_no_daemon_of_ours_is_no_good_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stranger: str
) -> None:
    status, body = STRANGERS[stranger]
    with answering(status, json.dumps(body).encode()) as url:
        assert code_of(monkeypatch, "--url", url) == 2
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["off", "127.0.0.1:1", "unix:/nowhere/snaprotd.sock"])
def test_where_no_daemon_answers_it_is_2_whatever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, listen: str
) -> None:
    config = write_config(
        tmp_path, "http://127.0.0.1:1", f'listen: {listen}\nservers: [{{id: 1, schedule: "@daily"}}]\n'
    )
    for options in ((), ("--json",), ("--exit-zero",)):
        assert code_of(monkeypatch, "--config", str(config), *options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("snaprotd: ")


def test_who_watches_sees_each_look_until_he_interrupts_and_is_told_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([told(), told("alarm", state="alarm")])
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("snaprotd.commands.look.read_status", lambda *_: next(looks))
    monkeypatch.setattr("snaprotd.commands.look.time.sleep", pause)
    assert code_of(monkeypatch, "--watch", "--url", "http://127.0.0.1:1") == 2
    assert pauses == [2.0, 2.0]
    assert capsys.readouterr().out.count("0 servers") == 2
