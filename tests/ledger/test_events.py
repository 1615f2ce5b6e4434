"""What has happened is written in the transaction that makes it true, once, and is read by whoever comes after."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core.errors import LeaseLost, LedgerError
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result, Step
from snaprotd.core.telling import Event, Letter, Message, Who
from snaprotd.core.telling import Kind as About
from snaprotd.core.telling.edges import LONGEST_GATHER
from snaprotd.core.telling.entries import Deletion, Entry, Happened, of_missed
from snaprotd.core.telling.troubles import Told, noted
from snaprotd.core.telling.vanished import Sighting
from snaprotd.ledger.events import record
from tests.ledger.test_store import SLOT, claimed, finished, ledgers, rotation, sql
from tests.support.nouns import a_snapshot

NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def entry(kind: Happened = Happened.RELOAD, at: datetime = NOW, **more: object) -> Entry:
    return Entry(at=at, kind=kind, text="words", **more)  # type: ignore[arg-type]


async def test_the_end_of_an_attempt_is_told_with_the_save_that_makes_it_true(path: Path) -> None:
    async with ledgers(path, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await ours.save(replace(begun, step=Step.WAIT))
        assert await theirs.events.newest(limit=10) == []
        failed = replace(
            finished(begun, Result.FAILURE), failed_step=Step.WAIT, error="it took too long", may_pass=True
        )
        await ours.save(failed)
        (told,) = await theirs.events.newest(limit=10)
    assert (told.kind, told.server_id, told.at) == (Happened.ROTATION, "12345", failed.finished_at)
    assert told.text == (
        "attempt 1 of the slot 2025-01-16T03:30:00Z (scheduled) ended as failure, at step wait: it took too long"
    )
    assert (told.details["rotation"], told.details["result"]) == (begun.id, "failure")


async def test_whoever_has_lost_a_rotation_tells_nothing_of_its_end(path: Path) -> None:
    async with ledgers(path, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await theirs.take_over(everything=True)
        with pytest.raises(LeaseLost):
            await ours.save(finished(begun))
        assert await theirs.events.newest(limit=10) == []


async def test_a_deletion_is_told_with_its_reason_and_the_list_it_was_decided_on_before_it_is_asked_for(
    path: Path,
) -> None:
    oldest, newest = a_snapshot("801", "one", SLOT), a_snapshot("802", "two", SLOT + timedelta(days=1))
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
        deletion = Deletion(snapshot=oldest, reason="delete: over keep 1", listed=[newest, oldest])
        await ours.save(replace(begun, deleting=("801",)), deletion=deletion)
        (told,) = await ours.events.newest(limit=10)
    assert (told.kind, told.text) == (Happened.DELETION, "asks for the deletion of one (801): delete: over keep 1")
    assert [(row["id"], row["name"]) for row in told.details["listed"]] == [(802, "two"), (801, "one")]


async def test_a_slot_that_is_run_late_and_those_that_are_not_run_are_told(path: Path) -> None:
    missed = of_missed("12345", "web", number=3, slots=[SLOT], why="nobody saw them", is_lost=True, at=NOW)
    async with ledgers(path, "a") as (ours,):
        await ours.set_marks([], [missed])
        await ours.set_marks([], [missed])
        await claimed(ours, replace(rotation(), kind=Kind.LATE))
        told = await ours.events.newest(limit=10)
    assert [one.kind for one in told] == [Happened.LATE, Happened.MISSED]
    assert told[1].text == "3 slots, the last of them 2025-01-16T03:30:00Z, not run: nobody saw them"


async def test_events_are_read_on_from_where_somebody_was_and_tell_when_the_ledger_began_anew(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.events.write([entry(server_id=str(number)) for number in range(5)])
        first, last = await ours.events.after(0, limit=3)
        assert ([one.server_id for one in first], last) == (["0", "1", "2"], 3)
        rest, last = await ours.events.after(last, limit=3)
        assert ([one.server_id for one in rest], last) == (["3", "4"], 5)
        assert await ours.events.after(5, limit=3) == ([], 5)
        assert await ours.events.after(900, limit=3) == ([], 5)


DAMAGE = [
    "kind = 'unheard_of'",
    "details = '{'",
    "details = '[]'",
    "at = 'never'",
    "at = '0001-01-01T00:00:00+23:00'",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_an_event_that_cannot_be_read_hides_no_other_and_holds_up_nobody(path: Path, damage: str) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.events.write([entry(server_id="1"), entry(server_id="2"), entry(server_id="3")])
        sql(path, f"UPDATE events SET {damage} WHERE server_id IN ('2', '3')")
        assert [one.server_id for one in await ours.events.newest(limit=10)] == ["1"]
        told, last = await ours.events.after(0, limit=10)
        assert ([one.server_id for one in told], last) == (["1"], 3)


async def test_they_are_chosen_by_server_kind_and_time(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.events.write(
            [
                entry(server_id="1", at=NOW - timedelta(days=3)),
                entry(Happened.DELETE, server_id="1", by="ann@here"),
                entry(server_id="2"),
            ]
        )
        events = ours.events
        assert [one.kind for one in await events.newest(server_ids=["1"], limit=9)] == ["delete", "reload"]
        assert [one.by for one in await events.newest(kinds=[Happened.DELETE], limit=9)] == ["ann@here"]
        since = NOW - timedelta(days=1)
        assert [one.server_id for one in await events.newest(since=since, limit=9)] == ["2", "1"]
        assert [one.server_id for one in await events.newest(limit=1)] == ["2"]


async def test_those_that_are_too_old_or_too_many_are_forgotten_and_what_persons_did_is_not_crowded_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "KEPT", 3)
    async with ledgers(path, "a") as (ours,):
        await ours.events.write([entry(at=NOW - timedelta(days=401), by="ann@here"), entry(by="bob@here")])
        await ours.events.write([entry(server_id=str(number)) for number in range(6)])
        await ours.events.forget_old(NOW)
        left = await ours.events.newest(limit=99)
        assert [(one.server_id, one.by) for one in left] == [
            ("5", None),
            ("4", None),
            ("3", None),
            (None, "bob@here"),
        ]
        await ours.events.write([entry()])
        assert (await ours.events.newest(limit=1))[0].id == 9  # no id is given twice


async def test_what_comes_from_outside_repaints_nothing_and_leaks_no_token(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        evil = "said \x1b[2J and Bearer vps_0123456789abcdef"
        await ours.events.write([entry(details={"error": evil, "list": [{"name": evil}]}, by="\x1b]0;x\x07ann")])
        (told,) = await ours.events.newest(limit=1)
    shown = f"{told.text}{told.details}{told.by}{(path.parent / 'state.db').read_bytes()!r}"
    assert "\x1b" not in shown
    assert "vps_0123456789abcdef" not in shown


# -- what was told -----------------------------------------------------------------------------------------------------


def a_letter(id_: str) -> Letter:
    message = Message(id=id_, at=NOW, kind=About.FAILURE, severity="alarm", server=None, text="words", do="this")
    return Letter(channel="webhook", message=message, since=NOW)


def going_on() -> Told:
    event = Event(id="r1", at=NOW, kind=About.FAILURE, server=Who(id="1", name="web"), text="x", rotation="r1")
    return noted(Told(), event, NOW)


async def test_what_was_told_and_what_waits_is_there_for_the_next_process(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        assert await ours.desk.read() is None
        await ours.desk.keep(going_on(), 7, entries=[entry()], letters=[a_letter("m1"), a_letter("m2")])
        await ours.desk.keep(going_on(), 8, entries=[], letters=[a_letter("m1")])
        await ours.desk.remove([a_letter("m2")])
    async with ledgers(path, "b") as (theirs,):
        kept = await theirs.desk.read()
        assert kept is not None
        assert (kept.told, kept.cursor, kept.letters) == (going_on(), 8, [a_letter("m1")])
        assert len(await theirs.events.newest(limit=9)) == 1


async def test_all_of_it_is_written_or_nothing(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.desk.keep(going_on(), 7, entries=[], letters=[])
        sql(path, "CREATE TRIGGER no BEFORE INSERT ON letters BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(LedgerError):
            await ours.desk.keep(Told(), 9, entries=[entry()], letters=[a_letter("m1")])
        kept = await ours.desk.read()
        assert kept is not None
        assert (kept.told, kept.cursor) == (going_on(), 7)
        assert await ours.events.newest(limit=9) == []


async def test_what_was_damaged_is_begun_anew_and_loses_no_other_letter(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.desk.keep(going_on(), 7, entries=[], letters=[a_letter("m1"), a_letter("m2")])
        sql(path, "UPDATE letters SET body = '{' WHERE message_id = 'm1'")
        kept = await ours.desk.read()
        assert kept is not None
        assert kept.letters == [a_letter("m2")]
        told = sql(path, "SELECT value FROM meta WHERE key = 'told'")[0][0]
        for damage in (
            "{}",
            told.replace("2025-01-17T12:00:00Z", "2025-01-17T12:00:00"),
            told.replace('"cursor":7', '"cursor":99999999999999999999'),
            told.replace('"cursor":7', '"cursor":-7'),
        ):
            assert damage != told
            sql(path, "UPDATE meta SET value = ? WHERE key = 'told'", damage)
            assert await ours.desk.read() is None
        sql(path, "UPDATE meta SET value = ? WHERE key = 'told'", told.replace('"PT1M"', '"P9999D"'))
        kept = await ours.desk.read()
        assert kept is not None
        assert kept.told.width == LONGEST_GATHER


async def test_a_text_that_nothing_can_write_is_an_error_of_the_ledger_and_told_from_memory(path: Path) -> None:
    event = Event(id="r1", at=NOW, kind=About.FAILURE, server=Who(id="1", name="web"), text="caf\udce9", rotation="r1")
    async with ledgers(path, "a") as (ours,):
        with pytest.raises(LedgerError, match="cannot be written down"):
            await ours.desk.keep(noted(Told(), event, NOW), 7, entries=[], letters=[])


async def test_what_was_seen_of_each_server_is_there_for_the_next_process(path: Path) -> None:
    one, other = (Sighting(ids=(its_id,), name=f"n{its_id}", taken=NOW) for its_id in ("801", "802"))
    async with ledgers(path, "a") as (ours,):
        await ours.seen.note({"1": [one], "2": [one, other]})
        await ours.seen.note({"2": [other]}, gone=["1"], vanished=[entry(Happened.VANISHED, server_id="2", key="v")])
    async with ledgers(path, "b") as (theirs,):
        assert await theirs.seen.server_ids() == {"2"}
        assert await theirs.seen.of(["1", "2"]) == {"2": (other,)}
        assert [one.kind for one in await theirs.events.newest(limit=9)] == ["vanished"]
        sql(path, "UPDATE seen SET snapshots = 'x'")
        assert await theirs.seen.of(["2"]) == {"2": ()}
