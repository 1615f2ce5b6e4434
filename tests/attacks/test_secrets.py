"""The token, in whatever writing a peer gives it back: nowhere whole, nor eight letters of it, nor an old one."""

from __future__ import annotations

import asyncio
import html
import json
import quopri
import re
from base64 import b32decode, b32encode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from snaprotd.commands.text.tables import history_text, now_text
from snaprotd.commands.text.terminal import moving_line, show
from snaprotd.core.errors import CloudError
from snaprotd.core.words import printable
from snaprotd.ledger.rows import read_rotation, written_rotation
from snaprotd.logs import redactor
from snaprotd.logs.redaction import INSTEAD, MOST_ROUNDS, Redactor
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org import answers
from snaprotd.report.rows import shown
from snaprotd.simulator import Reply, Request, World, api
from tests.ledger.test_rows import ROTATION
from tests.support import processes
from tests.support.daemons import Watched, daemon_on, entry, write_config
from tests.support.effort import effort

TOKEN = """vps_Kx7"q'\\Zm2%41+/LtW9-rB_4"""
"""With every character that some writing escapes."""
BEFORE, AFTER = "vps_9hQ2-first_Xk7Lm3", "vps_T4wZ-after_8Rb5Nc"


def spelled(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(one)) for one in text)


WRITINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in capitals": str.upper,
    "in a URL": lambda text: quote(text, safe=""),
    "in a URL, in lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "all of it in a URL": spelled("%{:02X}"),
    "some of it in a URL": lambda text: "".join(f"%{ord(one):02x}" if at % 3 else one for at, one in enumerate(text)),
    "twice in a URL": lambda text: quote(quote(text, safe=""), safe=""),
    "in base64": lambda text: b64encode(text.encode()).decode(),
    "in base64, as a header": lambda text: b64encode(f"Bearer {text}".encode()).decode(),
    "in base64 for URLs, as a password": lambda text: urlsafe_b64encode(f"me:{text}:x".encode()).decode(),
    "in base64, in lines": lambda text: re.sub("(.{6})", "\\1\r\n", b64encode(text.encode()).decode()),
    "in base64, in a URL": lambda text: quote(b64encode(text.encode()).decode(), safe=""),
    "as repr": repr,
    "as repr of bytes": lambda text: repr(text.encode()),
    "as repr of what has it": lambda text: repr({"headers": [("Authorization", f"Bearer {text}")]}),
    "as repr of repr": lambda text: repr(repr(text)),
    "in JSON": json.dumps,
    "in JSON in JSON": lambda text: json.dumps(json.dumps({"key": text})),
    "in JSON, all of it": spelled("\\u{:04x}"),
    "in bytes' escapes": spelled("\\x{:02x}"),
    "in HTML": html.escape,
    "in HTML's numbers": spelled("&#{};"),
    "in hexadecimal": lambda text: text.encode().hex(),
    "with what nobody sees in it": "\u200b".join,
    "in hexadecimal, byte by byte": lambda text: text.encode().hex(":"),
    "in hexadecimal of UTF-16": lambda text: text.encode("utf-16-be").hex(" ", 2),
    "as numbers": lambda text: repr([*text.encode()]),
    "as numbers of C": lambda text: ", ".join(f"0x{one:02X}" for one in text.encode()),
    "as numbers of od": spelled("{:03o} "),
    "as numbers of a name server": spelled("\\{:03}"),
    "as numbers, in JSON in a URL": lambda text: quote(json.dumps([*text.encode()])),
    "as letters of a list": lambda text: repr([*text]),
    "in octal escapes": spelled("\\{:03o}"),
    "in octal escapes, in part": lambda text: re.sub(r"[^\w]", lambda found: f"\\{ord(found[0]):03o}", text),
    "in JSON, with names": spelled("\\u{{{:x}}}"),
    "in escapes of eight digits": spelled("\\U{:08x}"),
    "in a URL, of an old browser": spelled("%u{:04X}"),
    "in mail": lambda text: re.sub("(.{5})", "\\1=\r\n", quopri.encodestring(text.encode(), quotetabs=True).decode()),
    "all of it in mail": spelled("={:02X}"),
    "in base32": lambda text: b32encode(text.encode()).decode(),
    "in base32, as a header": lambda text: b32encode(f"Bearer {text}".encode()).decode().lower(),
    "in base64, in lines of mail": lambda text: re.sub("(.{9})", "\\1\n    ", b64encode(text.encode()).decode()),
    "in base64 of UTF-16": lambda text: b64encode(f"x{text}".encode("utf-16-le")).decode(),
    "as UTF-16": lambda text: text.encode("utf-16-le").decode("latin-1"),
    "as repr of UTF-16": lambda text: repr(text.encode("utf-16")),
}
in_any_writing = pytest.mark.parametrize("writing", WRITINGS)


NUMBERS = [(r"\d{2,3}", 10), ("[0-9A-Fa-f]{2}", 16), ("(?<=[0-9A-Fa-f])[0-9A-Fa-f]{2}", 16), ("[0-3][0-7]{2}", 8)]


def letters_of(text: str, token: str) -> Iterator[str]:
    """Eight letters of the token that can be read out of a text in some way."""
    views = [text, unquote(text), html.unescape(text), re.sub("[^!-~]", "", text), text.replace("\\\\", "\\")]
    views += [re.sub(r"\\x([0-9a-f]{2})|\\u00([0-9a-f]{2})", lambda found: chr(int(found[1] or found[2], 16)), text)]
    for word in re.findall(r"[A-Za-z0-9_+/-]{8,}", text):
        for cut in range(4):
            part = word[cut : cut + (len(word) - cut) // 4 * 4].replace("+", "-").replace("/", "_")
            views.append(urlsafe_b64decode(part).decode("latin-1"))
    views += ["".join(chr(int(one, base)) for one in re.findall(form, text)) for form, base in NUMBERS]
    for word in re.findall(r"[A-Za-z2-7]{8,}", text):
        views += [b32decode(word[cut : cut + (len(word) - cut) // 8 * 8], True).decode("latin-1") for cut in range(8)]
    views += [view.replace("\0", "") for view in views]
    pieces = [token[at : at + 8].lower() for at in range(len(token) - 7)]
    return (piece for view in map(str.lower, views) for piece in pieces if piece in view)


def knowing(*secrets: str) -> Redactor:
    made = Redactor()
    made.hide(lambda: secrets)
    return made


# -- one place takes them out --------------------------------------------------------------------------------------


@in_any_writing
def test_the_token_is_taken_out_in(writing: str) -> None:
    written = WRITINGS[writing](TOKEN)
    for around in ("{}", "what is Bearer {}?", "<{}>", "a=1&key={}&b=2", "say '{}'."):
        clean = knowing(TOKEN).clean(around.format(written))
        assert [*letters_of(clean, TOKEN)] == []
        assert INSTEAD in clean


def test_any_eight_letters_of_it_are_taken_out_and_all_else_stays() -> None:
    made = knowing(TOKEN)
    for at in range(len(TOKEN) - 7):
        assert made.clean(f"in {TOKEN[at : at + 8]}!") == f"in {INSTEAD}!"
    for kept in ("snaprotd-main-20250116T033000Z", f"of it {TOKEN[:4]} is told", "vps.org answered 500", "100%"):
        assert made.known(kept) == kept
    assert made.known("vps_backup_of_monday") == "vps_backup_of_monday"  # a name, not a token
    assert made.clean("vps_backup_of_monday") == INSTEAD  # of an error nobody can say what it is


def test_a_short_secret_is_taken_out_as_a_whole_only() -> None:
    assert (
        knowing("abc-12").clean("abc-12 is no abc-1, in base64 YWJjLTEy")
        == f"{INSTEAD} is no abc-1, in base64 YWJjLTEy"
    )


def test_the_shortest_text_that_can_hold_a_part_is_looked_at() -> None:
    assert knowing(TOKEN).known(TOKEN[:8]) == INSTEAD
    assert knowing(TOKEN).known(TOKEN[:7]) == TOKEN[:7]
    assert knowing(TOKEN, "abc").known("abc") == INSTEAD


def test_an_old_token_is_taken_out_however_often_it_has_changed_since(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(BEFORE)
    source = token_source(file, {})
    redactor.hide(source.secrets)
    later = ["Rk4_ZpT81", "hG7-yVn33", "Wd9.cQs26"]
    for token in later:
        file.write_text(token)
        source.refresh()
        assert redactor.clean(source.get()) == INSTEAD
    assert redactor.clean(f"{', '.join(later)} and {BEFORE}") == f"{INSTEAD}, {INSTEAD}, {INSTEAD} and {INSTEAD}"


@pytest.mark.parametrize(
    "piece", ["%41\\x42", "&#65;", "&#0", "118, ", "=\n", "\\", "%", TOKEN, TOKEN[:7], "[", "bearer ", "\x1b", "a"]
)
def test_a_large_text_takes_no_longer_than_it_is_large(piece: str) -> None:
    def seconds(size: int, *, allowed: float) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        return effort(lambda: knowing(TOKEN).clean(text), allowed=allowed)

    seconds(1_000, allowed=1)
    small = seconds(10_000, allowed=0)
    allowed = min(16 * small + 0.05, 0.2 * MOST_ROUNDS)  # the first is far from four times four
    assert seconds(40_000, allowed=allowed) < allowed


def test_an_error_is_cleaned_before_it_is_cut() -> None:
    redactor.hide(lambda: (TOKEN,))
    for before in range(100, 210):
        words = answers.error_text(json.dumps({"detail": "x" * before + f" {TOKEN}"}).encode())
        assert [*letters_of(words, TOKEN)] == []


# -- the ways out --------------------------------------------------------------------------------------------------


def test_a_row_of_an_earlier_version_shows_none_and_a_new_one_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    leaky = replace(ROTATION, error=f"is {quote(TOKEN)} {TOKEN}", note=f"saw {TOKEN!r}", failed_step=ROTATION.step)
    old_row = written_rotation(leaky).replace(INSTEAD, json.dumps(TOKEN)[1:-1])
    redactor.hide(lambda: (TOKEN,))
    read = read_rotation(old_row)
    assert (read.error, read.note) == (f"is {INSTEAD} {INSTEAD}", f"saw '{INSTEAD}'")
    assert [*letters_of(written_rotation(leaky), TOKEN)] == []
    for one in (read, leaky):
        show(history_text([one]))
        show(now_text(replace(one, finished_at=one.started_at)))
    with moving_line() as say:
        say(f"{TOKEN}")
        say.for_good(f"and {TOKEN}")
    said = capsys.readouterr()
    assert [*letters_of(said.out + said.err, TOKEN)] == []
    assert (said.out + said.err).count(INSTEAD) >= 4


def test_a_report_is_cleaned_in_what_others_have_said_and_nowhere_else() -> None:
    redactor.hide(lambda: (TOKEN,))
    report = {"error": TOKEN, "servers": [{"name": f"a {TOKEN}", "id": TOKEN, "problems": [{"text": TOKEN}]}], "n": 1}
    assert shown(report) == {
        "error": INSTEAD,
        "servers": [{"name": f"a {INSTEAD}", "id": TOKEN, "problems": [{"text": INSTEAD}]}],
        "n": 1,
    }


@pytest.mark.parametrize("key", ["label", "called_now", "snapshot", "server"])
def test_what_was_called_so_before_it_was_a_token_is_not_told_in_an_event(key: str) -> None:
    redactor.hide(lambda: (TOKEN,))
    assert shown({"details": {key: f"a {TOKEN}"}}) == {"details": {key: f"a {INSTEAD}"}}


def echo_to_every_request(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """The provider, or what stands before it, repeats what it was sent, each time in another writing."""
    turns = count()

    def answer(_: World, request: Request, __: object) -> Reply:
        token = request.headers["authorization"].removeprefix("Bearer ")
        write = [*WRITINGS.values()][next(turns) % len(WRITINGS)]
        words = f"{'x' * 130} {write(token)}: {write(request.headers['authorization'])}"
        return api._json(status, {"detail": words, TOKEN: words})

    monkeypatch.setattr(api, "_route", answer)


async def views_of(watched: Watched) -> str:
    addresses = ("/", "/servers/12345", "/api/status", "/api/status?server=12345", "/readyz", "/metrics")
    return "\n".join([(await watched.get(address)).text for address in addresses])


def rows_in(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.glob("state.db*"))


@pytest.mark.usefixtures("few_ticks")
async def test_a_peer_that_echoes_the_header_puts_it_on_no_page_in_no_row_and_in_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = write_config(tmp_path, f"[{entry('*/10 * * * *')}]"), tmp_path / "token"
    path.write_text(path.read_text().replace("api: {", f"api: {{token_file: {file}, "))
    file.write_text(BEFORE)
    file.chmod(0o600)
    world = World(token=BEFORE)
    world.add_server("web-01")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(60)
        echo_to_every_request(monkeypatch, status=403)
        for token in (BEFORE, AFTER, f"{AFTER}-again"):
            file.write_text(token)
            await asyncio.sleep(1300)
            seen = await views_of(watched) + rows_in(tmp_path)
            seen += capsys.readouterr().out  # where the log goes that nobody has configured: without its last cleaning
            for secret in (BEFORE, AFTER):
                assert [*letters_of(seen, secret)] == []
        assert watched.daemon._account.error is not None
        watched.daemon._account.failure = CloudError(f"it came another way, {AFTER}")
        await asyncio.sleep(2)
        assert f"it came another way, {INSTEAD}" in (await watched.get("/api/status")).text
    assert len(watched.ended) >= 5
    assert all(INSTEAD in (one.error or "") for one in watched.ended)


@pytest.mark.real_time
async def test_a_command_shows_none_of_it_whatever_the_api_echoes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(token=processes.TOKEN)
    world.add_server("web-01")
    echo_to_every_request(monkeypatch, status=403)
    async with processes.provider(world) as served:
        path = processes.write_config(
            tmp_path, served.base_url, "servers: [{id: 12345, name: web-01, schedule: '0 3 * * *'}]\n"
        )
        for command in (["now", "12345"], ["history"], ["history", "--json"], ["check", "--online"]):
            ended = await processes.run(*command, "--config", str(path))
            assert [*letters_of(ended.out + ended.err, processes.TOKEN)] == []
            assert printable(ended.err.replace("\n", " "), 10**6) == ended.err.replace("\n", " ")
            if command == ["history"]:
                assert INSTEAD in ended.out
