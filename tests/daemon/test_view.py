"""What a daemon tells of itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.daemon.view import LEDGER_WITHIN, DaemonView
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
