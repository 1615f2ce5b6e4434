"""What a daemon tells of itself."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.view import LEDGER_WITHIN, REPORT_GOOD_FOR, DaemonView
from snaprotd.report import status
from snaprotd.report.status import AT_ONCE
from tests.support.daemons import a_world, configure, daemon_on, entry

ALL = ("0.0.0.0", 9877)


async def test_the_page_tells_that_anybody_may_look_at_it_as_check_does(tmp_path: Path) -> None:
    """By the file of `web_config` as it was read last; one that was not read yet is not spoken of."""
    web_config = tmp_path / "web.yaml"
    web_config.write_text(f"basic_auth_users: {{ann: $2b$10${'a' * 53}}}\n")
    async with daemon_on(configure(tmp_path, entry()), a_world()) as watched:
        view = watched.daemon.view
        view.apply(replace(view.config, listen=ALL))
        assert (await view.status())["remarks"] == [
            "listen: other machines may reach the pages, and nobody is asked who looks: `web_config` is for that"
        ]
        view.apply(replace(view.config, web_config=web_config))
        assert view.head()["remarks"] == []
        view.read_web_file(web_config)
        assert view.head()["remarks"] == [
            "listen: passwords go over the network as they are: `web_config` has no `tls_server_config`"
        ]


async def test_how_things_stand_is_told_though_the_ledger_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`snaprotd status` waits for ten seconds, and would say that no daemon runs."""
    time = asyncio.get_running_loop().time
    asked: list[DaemonView] = []
    async with daemon_on(configure(tmp_path, entry()), a_world()) as watched:

        async def never(self: DaemonView) -> None:
            asked.append(self)
            await asyncio.sleep(20)
            raise LedgerError("it was silent")

        with monkeypatch.context() as silent:
            silent.setattr(DaemonView, "_read_ledger", never)
            began = time()
            first, second = await asyncio.gather(watched.daemon.view.status(), watched.daemon.view.status())
            assert time() - began == pytest.approx(LEDGER_WITHIN, abs=0.5)
            for report in (first, second):
                assert report["ledger_error"] == f"the ledger {tmp_path / 'state.db'} does not answer"
                assert report["servers"]
            await asyncio.sleep(16)
            assert (await watched.daemon.view.status())["ledger_error"] == "it was silent"
            assert len(asked) == 1
        await asyncio.sleep(1)
        assert (await watched.daemon.view.status())["ledger_error"] is None


async def test_no_more_than_a_few_servers_are_reported_on_before_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet's report takes seconds. What counts is the work between two turns of the loop, not how fast that is."""
    looked_at = 0
    turns: list[int] = []
    judge, tell = AccountWatch.assessment, status._server

    def counted(what: Any) -> Any:
        def count_and_do(*given: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return what(*given)

        return count_and_do

    async def turn() -> None:
        while True:
            turns.append(looked_at)
            await asyncio.sleep(0)

    servers = [entry(server_id=str(12345 + number)) for number in range(4 * AT_ONCE + 1)]
    async with daemon_on(configure(tmp_path, *servers), a_world()) as watched:
        monkeypatch.setattr(AccountWatch, "assessment", counted(judge))
        monkeypatch.setattr(status, "_server", counted(tell))
        turning = asyncio.create_task(turn())
        report, again = await asyncio.gather(watched.daemon.view.status(), watched.daemon.view.status())
        turning.cancel()
    assert report is again
    assert len(report["servers"]) == 4 * AT_ONCE + 1
    assert looked_at == 2 * len(report["servers"])
    assert max(after - before for before, after in pairwise(turns)) <= 2 * AT_ONCE + 2


async def test_a_report_that_is_too_old_to_be_shown_is_not_kept(tmp_path: Path) -> None:
    """Of a fleet it is as large as all the rest."""
    async with daemon_on(configure(tmp_path, entry()), a_world()) as watched:
        view = watched.daemon.view
        first = await view.status()
        assert await view.status() is first, "it is made once for all who ask meanwhile"
        await asyncio.sleep(REPORT_GOOD_FOR + 1)
        assert view._report is None
        assert (await view.status())["generated_at"] != first["generated_at"]


async def test_of_a_report_little_is_left_for_the_garbage_collector(tmp_path: Path) -> None:
    """It stops everybody, and goes through all that there is: of a fleet for a tenth of a second."""
    servers = [entry(server_id=str(12345 + number)) for number in range(4 * AT_ONCE)]
    async with daemon_on(configure(tmp_path, *servers), a_world()) as watched:
        await watched.daemon.view.status()
        await asyncio.sleep(REPORT_GOOD_FOR + 1)
        before = len(gc.get_objects())
        report = await watched.daemon.view.status()
        assert len(gc.get_objects()) - before < 2 * len(report["servers"])
