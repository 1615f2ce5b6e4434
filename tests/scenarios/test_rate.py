"""A night at a provider that lets less through than is configured: few refusals, short downtimes, and it is said."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from snaprotd.commands.text.tables import status_text
from snaprotd.core.rotation import Result
from snaprotd.simulator import World
from tests.support.daemons import a_world, configure, daemon_on, entry, look_around_less
from tests.support.limits import Limited, Window

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MANY = 12
MINUTE = 60.0


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=31.3, leases=14.1, file=600.0, account=301.7)


def longest_downtime(world: World) -> float:
    """Seconds that a server was off, at the most."""
    longest = 0.0
    for server in world.servers.values():
        times = {word: at for at, word in server.history}
        longest = max(longest, (times["active"] - times["stopped"]).total_seconds())
    return longest


async def test_a_night_at_a_provider_that_lets_three_a_second_through_where_five_are_configured(
    tmp_path: Path,
) -> None:
    world = a_world(*(f"web-{one}" for one in range(MANY)), snapshot_seconds=(300, 300))
    entries = [entry("5 3 * * *", "stop_first: true", server_id=str(12345 + one)) for one in range(MANY)]
    path = configure(tmp_path, *entries)
    path.write_text(path.read_text().replace("requests_per_second: 100", "requests_per_second: 5"))
    limited = Limited(world, Window(most=3, seconds=1))
    async with daemon_on(path, world, limited) as watched:
        await asyncio.sleep(6.5 * MINUTE)  # the slot was one and a half ago
        at_work = await watched.daemon.view.status()
        page = (await watched.get("/")).text
        in_force = watched.value("snaprotd_api_rate")
        while len(watched.ended) < MANY:  # noqa: ASYNC110
            await asyncio.sleep(5)
        refused, _ = limited.refused()
    assert [one.result for one in watched.ended] == [Result.SUCCESS] * MANY
    assert refused <= 4
    assert longest_downtime(world) <= 300 + 60
    api = at_work["api"]
    assert api["rate"] == pytest.approx(in_force, abs=0.001)
    assert api["rate"] < api["configured_rate"] == 5
    assert api["note"] == (
        f"asks {round(api['rate'], 1):g} times a second instead of 5: the provider has refused "
        f"{api['refused_last_hour']} requests in the last hour"
    )
    assert f"snaprotd {api['note']}" in page
    text = StringIO()
    Console(file=text, width=200).print(status_text(at_work))
    assert f"snaprotd {api['note']}" in text.getvalue()
