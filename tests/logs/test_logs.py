"""The log: its two forms, what each line of a rotation carries, and that no byte of it is the token."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from snaprotd import logs
from snaprotd.config import file as config
from snaprotd.core.rotation import STEPS, Rotation
from snaprotd.daemon.life import Daemon
from snaprotd.simulator import KINDS, Fault, Request, World
from tests.support.daemons import write_config
from tests.support.world_transport import WorldTransport

TOKEN = "Qz7-nobody-may-read-this-8Xw"
"""Of no shape that a pattern would know: only its value gives it away."""
OTHER = "Kd3-nor-the-one-after-it-5Rt"
SHOWN_INSTEAD = "[token]"

log = structlog.get_logger("tests")


class Terminal(StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Each test configures the log; afterwards it is as it was."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *_libraries())}
    handlers, settings, secrets = list(root.handlers), structlog.get_config(), logs.redactor._sources
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    structlog.configure(**settings)
    structlog.contextvars.clear_contextvars()
    logs.redactor._sources = secrets


def _libraries() -> tuple[str, ...]:
    return ("apscheduler", "httpx", "httpcore", "uvicorn.access", "aiosqlite", "asyncio")


FORMS: dict[str, Callable[[], StringIO]] = {"json": StringIO, "text": Terminal}
in_both_forms = pytest.mark.parametrize("form", FORMS)


def begin(form: str = "json", *, level: str = "INFO", secrets: tuple[str, ...] = (TOKEN,)) -> StringIO:
    """Where the log goes from now on."""
    stream = FORMS[form]()
    logs.redactor.hide(lambda: secrets)
    logs.configure(stream=stream, level=level)
    return stream


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- the two forms -----------------------------------------------------------------------------------------------


def test_where_nobody_watches_each_line_is_json() -> None:
    stream = begin()
    log.info("step done", server="web-01", count=3)
    log.warning("slots were missed", reason=None)
    first, second = entries(stream.getvalue())
    assert datetime.fromisoformat(first.pop("timestamp")).tzinfo is not None
    assert first == {"event": "step done", "level": "info", "server": "web-01", "count": 3}
    assert (second["level"], second["event"], second["reason"]) == ("warning", "slots were missed", None)


def test_on_a_terminal_each_line_is_coloured_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = begin("text")
    log.info("step done", server="web-01")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b[" in line
    assert "step done" in line
    assert "web-01" in line
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(line)


def test_no_color_is_obeyed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = begin("text")
    log.info("step done", server="web-01")
    assert "step done" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_it_goes_to_standard_error_and_to_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.info("running")
    said = capfd.readouterr()
    assert said.out == ""
    assert entries(said.err)[0]["event"] == "running"


def test_an_event_of_many_lines_is_one_line_of_json() -> None:
    stream = begin()
    log.error("a\nb\r\nc\u2028d", text='{"forged": "line"}\n')
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["event"] == "a\nb\r\nc\u2028d"


def test_what_is_no_json_is_written_as_its_text() -> None:
    stream = begin()
    log.info("odd", at=datetime(2025, 1, 16, tzinfo=UTC), path=Path("/x"), error=ValueError("why"), some={1: {2}})
    (line,) = entries(stream.getvalue())
    assert (line["at"], line["path"], line["error"]) == ("2025-01-16 00:00:00+00:00", "/x", "why")


@in_both_forms
def test_the_libraries_write_in_the_same_form(form: str) -> None:
    stream = begin(form)
    logging.getLogger("some.library").warning("retrying in %d s", 5)
    (line,) = stream.getvalue().splitlines()
    assert "retrying in 5 s" in line
    assert form == "text" or json.loads(line)["level"] == "warning"


@pytest.mark.parametrize("name", _libraries())
def test_a_chatty_library_is_heard_from_a_warning_on(name: str) -> None:
    stream = begin(level="DEBUG")
    chatty = logging.getLogger(name)
    chatty.debug("a detail")
    chatty.info("a request")
    chatty.warning("a surprise")
    assert [line["event"] for line in entries(stream.getvalue())] == ["a surprise"]


@pytest.mark.parametrize(("level", "heard"), [("DEBUG", "diwe"), ("INFO", "iwe"), ("WARNING", "we"), ("ERROR", "e")])
def test_what_is_below_the_level_is_not_written(level: str, heard: str) -> None:
    stream = begin(level=level)
    for write in (log.debug, log.info, log.warning, log.error):
        write(write.__name__[0])
    assert "".join(line["event"] for line in entries(stream.getvalue())) == heard


def test_configured_again_a_line_is_written_once() -> None:
    before, stream = begin(), begin()
    log.info("once")
    assert (before.getvalue(), len(entries(stream.getvalue()))) == ("", 1)


# -- the token -----------------------------------------------------------------------------------------------------


@dataclass
class Holder:
    secret: str = TOKEN


class Odd:
    def __repr__(self) -> str:
        return f"<odd {TOKEN}>"


class Worse(Exception):
    def __str__(self) -> str:
        return f"the text is made late, of {TOKEN}"


def _raise(error: BaseException, cause: BaseException | None = None) -> None:
    try:
        if cause is not None:
            raise cause
    except BaseException as first:
        raise error from first
    raise error


def _write_exception(error: BaseException, cause: BaseException | None = None) -> None:
    try:
        _raise(error, cause)
    except BaseException:
        log.exception("internal error")


def _write_group() -> None:
    _write_exception(ExceptionGroup("several", [ValueError(TOKEN), ExceptionGroup("inner", [OSError(TOKEN)])]))


def _write_note() -> None:
    error = ValueError("plain")
    error.add_note(f"sent with {TOKEN}")
    _write_exception(error)


def _write_through_a_library() -> None:
    try:
        _raise(RuntimeError(TOKEN))
    except RuntimeError:
        logging.getLogger("some.library").exception("broken by %s", TOKEN, extra={"held": TOKEN})


def _write_in_context() -> None:
    with structlog.contextvars.bound_contextvars(held=TOKEN):
        log.info("bound")


PLACES: dict[str, Callable[[], None]] = {
    "the event": lambda: log.info(f"using {TOKEN} now"),
    "the event, more than once": lambda: log.info(f"{TOKEN}{TOKEN} {TOKEN}"),
    "a value": lambda: log.info("x", value=TOKEN),
    "a part of a value": lambda: log.info("x", value=f"https://x.invalid/?key={TOKEN}&more=1"),
    "a header": lambda: log.info("x", headers={"Authorization": f"Bearer {TOKEN}"}),
    "a key": lambda: log.info("x", **{TOKEN: 1}),
    "nested values": lambda: log.info("x", value={"a": [1, {"b": (TOKEN,)}], TOKEN: {TOKEN}}),
    "bytes": lambda: log.info("x", value=TOKEN.encode()),
    "an array of bytes": lambda: log.info("x", value=bytearray(TOKEN.encode())),
    "a path": lambda: log.info("x", value=Path("/run") / TOKEN),
    "an object's repr": lambda: log.info("x", value=Holder()),
    "an odd repr": lambda: log.info("x", value=[Odd()]),
    "a URL's escapes": lambda: log.info("x", value=quote(TOKEN)),
    "an error as a value": lambda: log.info("x", error=ValueError(TOKEN)),
    "an error's repr": lambda: log.info("x", error=repr(ValueError(TOKEN))),
    "an exception": lambda: _write_exception(ValueError(f"bad header {TOKEN!r}")),
    "an exception's arguments": lambda: _write_exception(ValueError(1, {"x": TOKEN})),
    "an exception whose text is made late": lambda: _write_exception(Worse()),
    "an exception's cause": lambda: _write_exception(ValueError("plain"), OSError(TOKEN)),
    "a group of exceptions": _write_group,
    "an exception's note": _write_note,
    "a library's line": _write_through_a_library,
    "what is bound to the context": _write_in_context,
    "the extra of a library's line": lambda: logging.getLogger("x").error("y", extra={"z": TOKEN}),
}


@in_both_forms
@pytest.mark.parametrize("place", PLACES)
def test_the_token_is_taken_out_of(place: str, form: str) -> None:
    stream = begin(form)
    PLACES[place]()
    written = stream.getvalue()
    assert written
    assert TOKEN not in written
    assert "nobody-may-read" not in written
    if place != "the extra of a library's line":  # which is not written at all
        assert SHOWN_INSTEAD in written
    assert form == "text" or entries(written)


@in_both_forms
def test_both_the_token_and_the_one_before_it_are_taken_out(form: str) -> None:
    stream = begin(form, secrets=(TOKEN, OTHER))
    log.info(f"{TOKEN} replaced {OTHER}")
    assert f"{SHOWN_INSTEAD} replaced {SHOWN_INSTEAD}" in stream.getvalue()


def test_a_new_token_is_known_from_the_next_line_on() -> None:
    known = [TOKEN]
    stream = begin()
    logs.redactor.hide(lambda: tuple(known))
    log.info(f"first {TOKEN}")
    known.append(OTHER)
    log.info(f"second {OTHER}")
    assert [line["event"] for line in entries(stream.getvalue())] == [f"{word} [token]" for word in ("first", "second")]


@in_both_forms
@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("the key vps_abcDEF0123456789 was used", "the key [token] was used"),
        ("Authorization: Bearer abc.def-123", "Authorization: [token]"),
        ("authorization: bearer abc.def-123, and more", "authorization: [token], and more"),
        ("vps_abc is too short for one", "vps_abc is too short for one"),
        ("vps.invalid answered 500 to GET /servers/", "vps.invalid answered 500 to GET /servers/"),
        ("snaprotd-main-20250116T033000Z", "snaprotd-main-20250116T033000Z"),
    ],
)
def test_what_looks_like_a_token_is_taken_out_unknown(written: str, shown: str, form: str) -> None:
    stream = begin(form, secrets=())
    log.info(written)
    assert shown in stream.getvalue()


# -- tracebacks ------------------------------------------------------------------------------------------------------


def _frame_that_holds(*parts: str) -> None:
    held = "-".join(parts)
    structure = {"inside": [held]}
    raise RuntimeError(f"of {len(structure)}")


@in_both_forms
def test_a_traceback_shows_the_frames_and_none_of_their_locals(form: str) -> None:
    stream = begin(form, secrets=())
    try:
        _frame_that_holds("only", "in", "a", "local")
    except RuntimeError:
        log.exception("internal error", work="tick")
    written = stream.getvalue()
    assert "RuntimeError" in written
    assert "of 1" in written
    assert "_frame_that_holds" in written
    assert "only-in-a-local" not in written
    assert '"locals"' not in written


def test_a_traceback_is_part_of_its_line_of_json() -> None:
    stream = begin()
    _write_exception(ValueError("outer"), OSError("inner"))
    (line,) = entries(stream.getvalue())
    assert (line["event"], line["level"]) == ("internal error", "error")
    assert [one["exc_type"] for one in line["exception"]] == ["ValueError", "OSError"]


# -- a daemon --------------------------------------------------------------------------------------------------------

ROTATION_KEYS = ("server", "slot", "rotation", "step")


@asynccontextmanager
async def living(
    path: Path,
    world: World,
    environ: dict[str, str],
    before: Callable[[Request], None] = lambda _: None,
    on_finished: Callable[[Rotation], None] = lambda _: None,
) -> AsyncIterator[Daemon]:
    """A daemon, with a hand on what its transport does."""
    transport = WorldTransport(world, before=before)
    daemon = Daemon(config.load(path, {}), environ, on_finished=on_finished, transport=transport)
    running = asyncio.create_task(daemon.run())
    started = asyncio.create_task(daemon.started.wait())
    await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    try:
        yield daemon
    finally:
        daemon.stop()
        await running


def account(**settings: Any) -> World:
    return World(token=TOKEN, snapshot_seconds=(20, 30), stop_seconds=5, start_seconds=5, **settings)


async def test_each_line_of_a_rotation_tells_server_slot_rotation_and_step(tmp_path: Path) -> None:
    world = account()
    ids = [world.add_server(f"web-{number}") for number in range(3)]
    world.add_snapshot(ids[0], "snaprotd-main-20250115T030100Z", created_at=datetime(2025, 1, 15, 3, 2, tzinfo=UTC))
    world.faults = [
        Fault(kind="start_never", action="start", server_id=ids[0], times=2),
        Fault(kind="ends", method="POST", path="/snapshots/", server_id=ids[1]),
        Fault(kind="status", method="DELETE", times=None),
    ]
    policy = 'schedule: "1 3 * * *", stop_first: true, keep: 1'
    path = write_config(tmp_path, "[" + ", ".join(f"{{id: {one}, name: n{one}, {policy}}}" for one in ids) + "]")
    stream, ended = begin(), list[Rotation]()
    async with living(path, world, {"VPS_API_TOKEN": TOKEN}, on_finished=ended.append):
        await asyncio.sleep(600)
    lines = [line for line in entries(stream.getvalue()) if "rotation" in line or line["event"] in OF_A_ROTATION]
    told = {(one.label, one.slot.isoformat(), one.id) for one in ended}
    assert {line["event"] for line in lines} >= OF_A_ROTATION
    assert [line for line in lines if any(not line.get(key) for key in ROTATION_KEYS)] == []
    assert {(line["server"], line["slot"], line["rotation"]) for line in lines} == told
    assert {line["step"] for line in lines} == {*STEPS[:-1]}
    assert {one.result for one in ended} == {"success", "failure", "partial"}


OF_A_ROTATION = {
    "step done",
    "waiting",
    "step failed",
    "deleting a snapshot",
    "the server has not started; asking again",
    "rotation finished",
}


async def test_a_line_tells_the_step_that_it_is_about(tmp_path: Path) -> None:
    world = account()
    server_id = world.add_server("web-01")
    path = write_config(tmp_path, f'[{{id: {server_id}, name: web, schedule: "1 3 * * *", stop_first: true}}]')
    stream = begin()
    async with living(path, world, {"VPS_API_TOKEN": TOKEN}):
        await asyncio.sleep(300)
    lines = [line for line in entries(stream.getvalue()) if "rotation" in line]
    done = [line["step"] for line in lines if line["event"] == "step done"]
    assert done == [*STEPS[:-1]]
    assert (lines[-1]["event"], lines[-1]["result"], lines[-1]["slot"]) == (
        "rotation finished",
        "success",
        "2025-01-16T03:01:00+00:00",
    )


async def test_what_is_no_line_of_a_rotation_carries_none_of_its_keys(tmp_path: Path) -> None:
    world = account()
    server_id = world.add_server("web-01")
    path = write_config(tmp_path, f'[{{id: {server_id}, schedule: "1 3 * * *"}}]')
    stream = begin()
    async with living(path, world, {"VPS_API_TOKEN": TOKEN}):
        await asyncio.sleep(240)
        world.faults = [Fault(kind="status", method="GET", times=None)]
        await asyncio.sleep(240)
    others = [line for line in entries(stream.getvalue()) if "rotation" not in line]
    assert {line["event"] for line in others} >= {"running", "the account could not be listed"}
    assert [line for line in others if line.keys() & set(ROTATION_KEYS)] == []


class Mishap(Exception):
    """Nothing that anybody foresaw."""


class Misfortune:
    """Every kind of fault until it has struck, a transport that breaks in between, and a token that is not accepted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken = 0
        self.known = TOKEN
        """The token that the daemon can know of."""

    def before(self, request: Request) -> None:
        """Called for each request. Now and then the transport itself breaks, with the tokens in its words."""
        now = datetime.now(UTC)
        if now.minute % 10 == 7 and now.second < 30:
            self.broken += 1
            raise Mishap(f"{request.method} {request.headers} {TOKEN} {self.known}")

    async def befall(self) -> None:
        for kind in KINDS:
            faults = [Fault(kind=kind, method=method, times=2) for method in ("GET", "POST", "DELETE")]
            self.world.faults = faults
            async with asyncio.timeout(600):
                await asyncio.sleep(40)
                while all(fault.times == 2 for fault in faults):  # noqa: ASYNC110 - time is virtual
                    await asyncio.sleep(10)
        self.world.faults = [Fault(kind="status", status=401, times=20)]
        await asyncio.sleep(60)


def everything_said(captured: pytest.CaptureFixture[bytes]) -> bytes:
    said = captured.readouterr()
    return said.out + said.err


def unhappy_account(folder: Path, more: str = "") -> tuple[World, Path]:
    world = account()
    ids = [world.add_server(f"web-{number}") for number in range(3)]
    servers = [f'{{id: {one}, schedule: "*/3 * * * *", stop_first: true, keep: 1}}' for one in ids]
    path = write_config(folder, f"[{', '.join(servers)}]")
    path.write_text(path.read_text().replace("api: {", f"api: {{timeout: 20s, settle: 10s, {more}"))
    return world, path


async def test_whatever_befalls_a_daemon_no_byte_that_it_writes_is_the_token(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    world, path = unhappy_account(tmp_path)
    logs.configure(level="DEBUG")
    misfortune = Misfortune(world)
    async with living(path, world, {"VPS_API_TOKEN": TOKEN}, misfortune.before):
        await misfortune.befall()
        world.faults = []
        await asyncio.sleep(240)
    said = everything_said(capfdbinary)
    assert misfortune.broken > 0
    assert all(word in said for word in (b"internal error", b"Mishap", b"answered 401", SHOWN_INSTEAD.encode()))
    assert TOKEN.encode() not in said
    assert [line for line in said.decode().splitlines() if not line.startswith("{")] == []


async def test_a_token_of_a_file_is_in_no_byte_either_and_neither_is_the_next_one(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    world, path = unhappy_account(tmp_path, f"token_file: {file}, ")
    logs.configure(level="DEBUG")
    misfortune = Misfortune(world)
    async with living(path, world, {}, misfortune.before) as daemon:
        await misfortune.befall()
        world.faults = []
        world.token = OTHER
        await asyncio.sleep(60)
        refused = everything_said(capfdbinary)
        file.write_text(f"{OTHER}\n")
        misfortune.known = OTHER
        await asyncio.sleep(600)  # the transport breaks once more meanwhile
        page = b"".join(daemon.view.exposition())
    said = refused + everything_said(capfdbinary)
    assert b"answered 401" in refused
    assert world.now() - world.created[-1].made_at < timedelta(minutes=5)
    assert f"run chmod 600 {file}".encode() in said
    assert OTHER.encode() not in said + page
    assert TOKEN.encode() not in said + page
