"""Webhooks and pings, against receivers on real sockets: what arrives there, and what is made of their answers."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from snaprotd.core.telling import Kind, Message, Style, Who
from snaprotd.logs import redactor
from snaprotd.senders import Outcome
from snaprotd.senders import http as exchange
from snaprotd.senders.http import Exchange
from snaprotd.senders.ping import Ping
from snaprotd.senders.webhook import Webhook
from tests.support.receivers import FLOODS, HANGS, TRICKLES, Asked, Healthchecks, answer, receiver, secret, secrets_in

pytestmark = pytest.mark.real_time

PATH = "/services/T0Q7ZK31/zX9kPq81LmW2"
KEY = "Kq8-only-the-two-of-us-9Zt"
MESSAGE = Message(
    id="5f0c",
    at=datetime(2025, 1, 16, 3, 31, tzinfo=UTC),
    kind=Kind.FAILURE,
    severity="alarm",
    server=Who(id="12345", name="wéb-01"),
    text="wéb-01: the last rotation failed",
    do="Look.",
    rotation="0123456789abcdef0123456789abcdef",
)
RECOVERY = Message(**{**vars(MESSAGE), "kind": Kind.RECOVERY})
TEST = Message(**{**vars(MESSAGE), "kind": Kind.TEST, "rotation": ""})


def webhook(folder: Path, url: str, *, key: str = "") -> Webhook:
    secrets = secrets_in(folder)
    signed = secrets.file(secret(folder, "key", key)) if key else None
    return Webhook(Exchange({}), secrets.file(secret(folder, "hook", url)), signed)


def ping(folder: Path, url: str, style: Style = Style.HEALTHCHECKS) -> Ping:
    return Ping(Exchange({}), secrets_in(folder).file(secret(folder, "ping", url)), style)


async def test_a_webhook_is_a_post_of_the_published_body_signed_with_the_key(tmp_path: Path) -> None:
    async with receiver() as there:
        came_back = await webhook(tmp_path, there.url + PATH, key=KEY).send(MESSAGE)
    assert (came_back.outcome, came_back.said) == (Outcome.SENT, "HTTP 200")
    (asked,) = there.asked
    assert (asked.method, asked.target) == ("POST", PATH)
    assert json.loads(asked.body) == {
        "id": "5f0c",
        "at": "2025-01-16T03:31:00Z",
        "kind": "failure",
        "severity": "alarm",
        "server": {"id": 12345, "name": "wéb-01"},
        "text": "wéb-01: the last rotation failed",
        "do": "Look.",
        "url": "",
    }
    expected = hmac.new(KEY.encode(), asked.body, hashlib.sha256).hexdigest()
    assert asked.headers["x-snaprotd-signature"] == f"sha256={expected}"


async def test_without_a_key_there_is_no_signature(tmp_path: Path) -> None:
    async with receiver() as there:
        await webhook(tmp_path, there.url + PATH).send(MESSAGE)
    assert "x-snaprotd-signature" not in there.asked[0].headers


@pytest.mark.parametrize(
    ("told", "outcome", "said"),
    [
        (answer(204), Outcome.SENT, "HTTP 204"),
        (answer(500, "broken"), Outcome.FAILED, "HTTP 500: broken"),
        (answer(404, "no such hook"), Outcome.FAILED, "HTTP 404: no such hook"),
        (answer(401), Outcome.FAILED, "HTTP 401"),
        (answer(429, "slow down"), Outcome.FAILED, "HTTP 429: slow down"),
        (answer(413), Outcome.GIVEN_UP, "HTTP 413"),
        (answer(422, "not for me"), Outcome.GIVEN_UP, "HTTP 422: not for me"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Outcome.FAILED, "no answer that can be read"),
        (b"", Outcome.FAILED, "no answer that can be read"),
        (HANGS, Outcome.FAILED, "no answer within 0.3 s"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", Outcome.FAILED, "no answer that can be read"),
        (answer(500, "\x1b[31mred\r\n\x00"), Outcome.FAILED, "HTTP 500: "),
    ],
)
async def test_what_comes_back_has_a_word(
    tmp_path: Path, told: bytes, outcome: Outcome, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE", 0.3 if told == HANGS else 10.0)
    async with receiver(lambda _: told) as there:
        came_back = await webhook(tmp_path, there.url + PATH).send(MESSAGE)
    assert came_back.outcome is outcome
    assert came_back.said.startswith(said)
    assert came_back.said.isprintable()


async def test_nobody_listening_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    async with receiver() as there:
        pass
    came_back = await webhook(tmp_path, there.url + PATH).send(MESSAGE)
    assert (came_back.outcome, came_back.said.startswith("no connection")) == (Outcome.FAILED, True)


async def test_of_ten_gigabytes_only_the_beginning_is_read(tmp_path: Path) -> None:
    async with receiver(lambda _: FLOODS) as there:
        came_back = await webhook(tmp_path, there.url + PATH).send(MESSAGE)
    assert came_back.outcome is Outcome.SENT
    assert there.flooded < 16 * 1024 * 1024


async def test_a_status_is_an_answer_though_its_body_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE", 1.0)
    monkeypatch.setattr(exchange, "PATIENCE_FOR_WORDS", 0.2)
    trickling = f"HTTP/1.1 200 Some\r\nContent-Length: 1000\r\n\r\n{TRICKLES.decode()}".encode()
    async with receiver(lambda _: trickling) as there:
        assert (await webhook(tmp_path, there.url).send(MESSAGE)).outcome is Outcome.SENT
        assert (await ping(tmp_path, there.url).send(RECOVERY)).outcome is Outcome.FAILED, "there it is the answer"


async def test_a_redirect_is_not_followed_and_is_no_success(tmp_path: Path) -> None:
    async with receiver() as elsewhere:
        led = answer(307, "", f"Location: {elsewhere.url}/taken")
        async with receiver(lambda _: led) as there:
            came_back = await webhook(tmp_path, there.url + PATH).send(MESSAGE)
    assert (came_back.outcome, elsewhere.asked) == (Outcome.FAILED, [])
    assert "redirects" in came_back.said


async def test_no_answer_shows_the_url_or_the_key_however_the_receiver_writes_them(tmp_path: Path) -> None:
    def echoes(asked: Asked) -> bytes:
        return answer(500, f"no {asked.target} and {KEY} and {KEY.upper()} and {PATH.replace('/', '%2F')}")

    async with receiver(echoes) as there:
        hook = webhook(tmp_path, there.url + PATH, key=KEY)
        came_back = await hook.send(MESSAGE)
    for part in ("T0Q7ZK31", "zX9kPq81LmW2", KEY):
        assert part.lower() not in came_back.said.lower()
        assert part not in f"{vars(hook)}{came_back}"
    assert redactor.known("our services at 127.0.0.1 are well") == "our services at 127.0.0.1 are well"


async def test_what_stands_in_the_query_is_hidden_beside_a_path_that_seems_to_be_the_secret(tmp_path: Path) -> None:
    async with receiver(lambda asked: answer(422, f"no {asked.target}")) as there:
        came_back = await webhook(tmp_path, f"{there.url}/webhook2024/?key=correcthorsebattery&v=1").send(MESSAGE)
    assert "correcthorse" not in came_back.said
    assert "webhook2024" not in came_back.said


async def test_with_a_hundred_channels_no_secret_is_pushed_out_of_what_is_hidden(tmp_path: Path) -> None:
    redactor.hide(lambda: ("Zq7-the-token-of-all-4Kd",))
    redactor.known("the first to be known")
    secrets = secrets_in(tmp_path)
    for number in range(100):
        await secrets.file(secret(tmp_path, f"hook{number}", f"https://a.invalid/hook{number:03}xY9")).url()
    shown = redactor.known(" ".join(["Zq7-the-token-of-all-4Kd", *(f"hook{number:03}xY9" for number in range(100))]))
    assert set(shown.split()) == {"[token]"}


async def test_a_url_that_changes_in_its_file_is_used_from_the_next_message_on(tmp_path: Path) -> None:
    async with receiver() as there:
        hook = webhook(tmp_path, f"{there.url}/one4567890")
        await hook.send(MESSAGE)
        secret(tmp_path, "hook", f"{there.url}/another4567")
        await hook.send(MESSAGE)
        (tmp_path / "hook").unlink()
        await hook.send(MESSAGE)
    assert [asked.path for asked in there.asked] == ["/one4567890", "/another4567", "/another4567"]
    assert "one4567890" not in redactor.known("one4567890")


# -- pings -----------------------------------------------------------------------------------------------------------


async def test_healthchecks_is_told_success_and_failure_with_its_reason_and_the_run(tmp_path: Path) -> None:
    rules = Healthchecks()
    async with receiver(rules) as there:
        check = ping(tmp_path, f"{there.url}/{rules.check}")
        outcomes = [(await check.send(one)).outcome for one in (MESSAGE, TEST, RECOVERY)]
    assert outcomes == [Outcome.SENT] * 3
    run = str(UUID(MESSAGE.rotation))
    assert rules.runs == [
        ("fail", run, "wéb-01: the last rotation failed"),
        ("log", "", "wéb-01: the last rotation failed"),
        ("success", run, "wéb-01: the last rotation failed"),
    ]
    assert rules.state == "up"


@pytest.mark.parametrize(
    ("check", "most", "said"),
    [(str(uuid4()), 5, "OK (not found)"), (None, 0, "OK (rate limited)")],
    ids=["a check that is not there", "one ping too many"],
)
async def test_an_ok_of_healthchecks_that_is_none_is_a_failure(
    tmp_path: Path, check: str | None, most: int, said: str
) -> None:
    rules = Healthchecks(most=most)
    async with receiver(rules) as there:
        came_back = await ping(tmp_path, f"{there.url}/{check or rules.check}").send(RECOVERY)
    assert (came_back.outcome, said in came_back.said) == (Outcome.FAILED, True)


async def test_a_page_that_is_not_healthchecks_is_no_success(tmp_path: Path) -> None:
    async with receiver(lambda _: answer(200, "<html>Please log in to the hotel's network")) as there:
        came_back = await ping(tmp_path, f"{there.url}/{uuid4()}").send(RECOVERY)
    assert came_back.outcome is Outcome.FAILED


async def test_a_slug_with_a_query_is_kept(tmp_path: Path) -> None:
    async with receiver(lambda _: answer(200, "OK")) as there:
        await ping(tmp_path, f"{there.url}/fqOOd6-F4MMNuCEnzTU01w/web?create=1").send(MESSAGE)
    (asked,) = there.asked
    assert asked.path == "/fqOOd6-F4MMNuCEnzTU01w/web/fail"
    assert (asked.query("create"), asked.query("rid")) == ("1", str(UUID(MESSAGE.rotation)))


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (answer(200, '{"ok":true}'), Outcome.SENT),
        (answer(200, '{"ok":false,"msg":"Monitor not found"}'), Outcome.FAILED),
        (answer(404, '{"ok":false}'), Outcome.FAILED),
        (answer(200, "[" * 60000), Outcome.FAILED),
    ],
)
async def test_uptime_kuma_is_told_in_its_query_and_judged_by_its_own_word(
    tmp_path: Path, told: bytes, outcome: Outcome
) -> None:
    async with receiver(lambda _: told) as there:
        monitor = ping(tmp_path, f"{there.url}/api/push/aB3dE6gH9k?status=up&msg=OK&ping=", Style.UPTIME_KUMA)
        found = [(await monitor.send(one)).outcome for one in (MESSAGE, RECOVERY)]
    assert found == [outcome] * 2
    told_there = [(one.query("status"), one.query("msg")) for one in there.asked]
    assert told_there == [("down", "wéb-01: the last rotation failed"), ("up", "OK")]


@pytest.mark.parametrize("words", ["OK (not found)", "OK (rate limited)", "  ok (not found)\n"])
async def test_what_healthchecks_has_not_counted_is_no_success_of_a_plain_ping_either(
    tmp_path: Path, words: str
) -> None:
    async with receiver(lambda _: answer(200, words)) as there:
        plain = ping(tmp_path, f"{there.url}/p", Style.PLAIN)
        for came_back in (await plain.beat(), await plain.send(RECOVERY)):
            assert (came_back.outcome, "not OK" in came_back.said) == (Outcome.FAILED, True)
    async with receiver(lambda _: answer(200, "whatever (it says)")) as there:
        assert (await ping(tmp_path, f"{there.url}/p", Style.PLAIN).beat()).outcome is Outcome.SENT


async def test_where_any_ping_is_success_neither_a_failure_nor_a_test_is_sent(tmp_path: Path) -> None:
    async with receiver() as there:
        for style in (Style.PLAIN, Style.UPTIME_KUMA):
            assert (await ping(tmp_path, f"{there.url}/p?q=1", style).send(TEST)).outcome is Outcome.SENT
        plain = ping(tmp_path, f"{there.url}/p?q=1", Style.PLAIN)
        await plain.send(MESSAGE)
        assert there.asked == []
        await plain.send(RECOVERY)
    assert [(one.method, one.target) for one in there.asked] == [("GET", "/p?q=1")]


# -- the files -------------------------------------------------------------------------------------------------------

TOKEN = "vps_Zq7onlytheprovider4Kd"

BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("missing", lambda folder: folder / "hook", "cannot be read"),
    ("a folder", lambda folder: folder, "a directory, not a file"),
    ("no URL", lambda folder: secret(folder, "hook", "secret-words-of-mine"), "should hold one URL"),
    ("another scheme", lambda folder: secret(folder, "hook", "ftp://host.invalid/x"), "should hold one URL"),
    ("two lines", lambda folder: secret(folder, "hook", "https://a.invalid/\nhttps://b.invalid/"), "one URL"),
    ("the token", lambda folder: secret(folder, "hook", f"https://a.invalid/?{TOKEN}"), "looks like the API token"),
    ("our token", lambda folder: secret(folder, "hook", "https://a.invalid/?Zq8-no-shape"), "looks like the API token"),
    ("too long", lambda folder: secret(folder, "hook", "https://a.invalid/" + "x" * 5000), "longer than 4096 bytes"),
]


@pytest.mark.parametrize(("make", "why"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_a_file_that_holds_no_url_is_told_of_without_a_letter_of_it(
    tmp_path: Path, make: Callable[[Path], Path], why: str
) -> None:
    secrets = secrets_in(tmp_path, is_token=lambda text: "Zq8-no-shape" in text)
    hook = Webhook(Exchange({}), secrets.file(make(tmp_path)))
    came_back = await hook.send(MESSAGE)
    assert (came_back.outcome, why in came_back.said) == (Outcome.FAILED, True), came_back
    assert not [part for part in ("secret-words", "invalid", TOKEN) if part in came_back.said]
    assert list(await hook.look()) == [came_back.said]


async def test_a_link_out_of_the_folder_is_not_followed_also_where_it_is_laid_later(tmp_path: Path) -> None:
    within, outside = tmp_path / "within", tmp_path / "outside"
    within.mkdir()
    outside.mkdir()
    async with receiver() as there:
        secret(outside, "theirs", f"{there.url}/theirs12345")
        hook = Webhook(Exchange({}), secrets_in(within).file(secret(within, "hook", f"{there.url}/ours1234567")))
        await hook.send(MESSAGE)
        (within / "hook").unlink()
        (within / "hook").symlink_to(outside / "theirs")
        came_back = await hook.send(MESSAGE)
    assert (came_back.outcome, "leads out of the folders" in came_back.said) == (Outcome.FAILED, True)
    assert [one.path for one in there.asked] == ["/ours1234567"]


async def test_a_name_that_is_not_known_is_found_without_sending(tmp_path: Path) -> None:
    (found,) = await webhook(tmp_path, "https://nowhere.invalid/x1234567").look()
    assert "hook: its name is not known" in found or "was not found" in found
    async with receiver() as there:
        assert not await webhook(tmp_path, there.url).look()
    assert there.asked == []
