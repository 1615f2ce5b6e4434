"""What `check` and `plan` say of windows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from snaprotd.commands.jobs.account import nights_of
from snaprotd.commands.text.tables import plan_text
from snaprotd.commands.text.terminal import show
from snaprotd.config.file import parse
from snaprotd.config.settings import resolve
from snaprotd.core.model import Machine
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.store import Ledger
from snaprotd.report.findings import remarks_on_names, remarks_on_policies
from snaprotd.report.rows import night_words, people_plan_of
from snaprotd.wiring.assembly import new_rotation
from tests.support.rotations import changed
from tests.support.virtual_time import START

HOURLY = 'policies: {n: {schedule: "@hourly", window: "01:00-06:00"}}\n'
NIGHTLY = 'policies: {n: {schedule: "30 3 * * *", window: ["01:00-06:00"], spread: 6h}}\n'


@pytest.mark.parametrize(
    ("text", "remarks"),
    [
        ('servers: [{id: 1, schedule: "@hourly"}]', []),
        ('servers: [{id: 1, schedule: "30 3 * * *", window: "01:00-06:00"}]', []),
        (
            'servers: [{id: 1, schedule: "@daily", one_at_a_time: db}]',
            ["servers[0].one_at_a_time: has no effect where `stop_first` is false"],
        ),
        ('servers: [{id: 1, schedule: "@daily", one_at_a_time: db, stop_first: true}]', []),
        (
            f"{HOURLY}servers: [{{id: 1, policy: n}}, {{id: 2, policy: n}}]",
            [
                "policies.n.window: 7600 of 9600 slots of `@hourly` in 400 days lie outside it: they are not run",
            ],
        ),
        (
            f'{NIGHTLY}servers: [{{match: "web-*", policy: n}}]',
            [
                (
                    "policies.n.window: some servers may begin after it has closed, 400 times in 400 days, by "
                    "`spread`: those slots are not run"
                ),
            ],
        ),
    ],
)  # fmt: skip
def test_a_check_says_which_slots_a_window_leaves_out_and_which_group_has_no_effect(
    text: str, remarks: list[str]
) -> None:
    assert remarks_on_policies(parse(text, "c.yaml", {}).entries) == remarks


def test_a_plan_shows_the_window_and_no_slot_outside_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = 'servers: [{id: 1, schedule: "@hourly", window: [02:00-04:00, sat 12:00-13:00], timezone: Europe/Berlin}]'
    config = parse(text, "c.yaml", {})
    (target,) = resolve(config, None)
    plan = people_plan_of(config, target, None, now=START, machine=Machine(), count=3)
    assert plan["next"] == ["2025-01-17T01:00:00Z", "2025-01-17T02:00:00Z", "2025-01-18T01:00:00Z"]
    show(plan_text([plan], START, 5))
    assert "  window  02:00-04:00, sat 12:00-13:00, opens Fri 2025-01-17 02:00 CET\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([300.0, 420.0], "db, 2 servers, one at a time: off for about 12 min in all, by their last rotations"),
        (
            [300.0, None],
            (
                "db, 2 servers, one at a time: off for about 5 min in all, by their last rotations, 1 of them not "
                "known yet"
            ),
        ),
        ([None], "db, 1 server, one at a time: how long that takes is known after their first rotations"),
    ],
)
def test_a_plan_says_what_a_group_means_for_the_length_of_a_night(times: list[float | None], text: str) -> None:
    assert night_words("db", times) == text


async def test_the_length_of_a_night_is_that_of_the_last_rotations_in_the_ledger(tmp_path: Path) -> None:
    keys = 'schedule: "@daily", stop_first: true, one_at_a_time: db'
    text = f"state: {tmp_path}/state.db\nservers: [{{id: 1, {keys}}}, {{id: 2, {keys}}}, {{id: 3, schedule: '@daily'}}]"
    config = parse(text, "c.yaml", {})
    targets = resolve(config, None)
    unknown = "db, 2 servers, one at a time: how long that takes is known after their first rotations"
    assert await nights_of(config, targets) == {"db": unknown}
    async with await Ledger.open(tmp_path / "state.db", owner="before") as ledger:
        for day, seconds in enumerate((100.0, 300.0, 200.0)):
            rotation = new_rotation(config, targets[0], slot=START - timedelta(days=day), now=START)
            claimed = changed(rotation, off_for=seconds, asked=1, released=1, step=Step.DONE, result=Result.SUCCESS)
            await ledger.claim(claimed)
    assert "off for about 3 min in all, by their last rotations, 1 of them" in (await nights_of(config, targets))["db"]


@pytest.mark.parametrize(
    ("instance", "hold", "told"),
    [
        ("main", "3d", ""),
        ("ten_letter", "3d", "the names of what `snaprotd now` takes have 51 characters with it"),
        ("ten_letter", "0s", ""),
        ("a_whole_lot_of_twenty_six", "0s", "the names of snapshots have 51 characters with it"),
    ],
)
def test_names_that_a_provider_may_refuse_for_their_length_are_remarked_on(instance: str, hold: str, told: str) -> None:
    text = f'instance: {instance}\nservers: [{{id: 1, schedule: "@daily", hold_manual: {hold}}}]'
    remarks = [f"instance: {told}: a provider may refuse more than 50"] if told else []
    assert remarks_on_names(parse(text, "c.yaml", {})) == remarks
