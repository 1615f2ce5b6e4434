"""What `check` and `plan` say of windows."""

from __future__ import annotations

import pytest

from snaprotd.commands.text.tables import plan_text
from snaprotd.commands.text.terminal import show
from snaprotd.config.file import parse
from snaprotd.config.settings import resolve
from snaprotd.core.model import Machine
from snaprotd.report.findings import remarks_on_windows
from snaprotd.report.rows import people_plan_of
from tests.support.virtual_time import START

HOURLY = 'policies: {n: {schedule: "@hourly", window: "01:00-06:00"}}\n'
NIGHTLY = 'policies: {n: {schedule: "30 3 * * *", window: ["01:00-06:00"], spread: 6h}}\n'


@pytest.mark.parametrize(
    ("text", "remarks"),
    [
        ('servers: [{id: 1, schedule: "@hourly"}]', []),
        ('servers: [{id: 1, schedule: "30 3 * * *", window: "01:00-06:00"}]', []),
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
def test_a_check_says_which_slots_a_window_leaves_out(text: str, remarks: list[str]) -> None:
    assert remarks_on_windows(parse(text, "c.yaml", {}).entries) == remarks


def test_a_plan_shows_the_window_and_no_slot_outside_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = 'servers: [{id: 1, schedule: "@hourly", window: [02:00-04:00, sat 12:00-13:00], timezone: Europe/Berlin}]'
    config = parse(text, "c.yaml", {})
    (target,) = resolve(config, None)
    plan = people_plan_of(config, target, None, now=START, machine=Machine(), count=3)
    assert plan["next"] == ["2025-01-17T01:00:00Z", "2025-01-17T02:00:00Z", "2025-01-18T01:00:00Z"]
    show(plan_text([plan], START, 5))
    assert "  window  02:00-04:00, sat 12:00-13:00, opens Fri 2025-01-17 02:00 CET\n" in capsys.readouterr().out
