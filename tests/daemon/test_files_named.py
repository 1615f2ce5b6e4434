"""Which files a configuration names: each is looked at before the token is used, of ten thousand servers too."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from snaprotd.config.file import parse
from snaprotd.wiring.access import files_of
from tests.support.daemons import a_world, configure, daemon_on, entry

SERVERS = "\n".join(
    f"  - {{id: {number}, schedule: '@daily', ping: {{url_file: /etc/snaprotd/ping}}}}" for number in range(1, 4)
)


def test_a_file_that_many_servers_name_is_looked_at_once() -> None:
    """By what each server has a record of, made from its entry, nothing is named that is not known already."""
    config = parse(f"state: /tmp/s.db\nservers:\n{SERVERS}\n", "/etc/snaprotd/config.yaml", {})
    named = [path for _, path in files_of(config)]
    assert named.count(Path("/etc/snaprotd/ping")) == 1
    assert Path("/tmp/s.db") not in named


ANOTHER = "import sqlite3, sys; its = sqlite3.connect(sys.argv[1]); its.execute('SELECT * FROM marks'); its.close()"


def stays_as_another_uses(ledger: Path) -> bool:
    """Its log does, which the last user deletes."""
    log = Path(f"{ledger}-wal")
    before = log.stat()
    subprocess.run([sys.executable, "-c", ANOTHER, str(ledger)], check=True)
    return log.exists() and log.stat().st_ino == before.st_ino


async def test_after_a_reload_the_ledger_is_still_in_use_for_every_other_process(tmp_path: Path) -> None:
    """Who believes to be the last that has it open deletes its log: a command did, and the daemon's was gone."""
    path = configure(tmp_path, entry())
    async with daemon_on(path, a_world()) as watched:
        for number in (2, 3):
            configure(tmp_path, entry(), more=f"max_concurrent: {number}")
            await asyncio.sleep(60)
            assert watched.daemon._config.max_concurrent == number
            assert stays_as_another_uses(watched.daemon._config.ledger)
