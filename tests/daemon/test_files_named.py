"""Which files a configuration names: each is looked at before the token is used, of ten thousand servers too."""

from __future__ import annotations

from pathlib import Path

from snaprotd.config.file import parse
from snaprotd.wiring.access import files_of

SERVERS = "\n".join(
    f"  - {{id: {number}, schedule: '@daily', ping: {{url_file: /etc/snaprotd/ping}}}}" for number in range(1, 4)
)


def test_a_file_that_many_servers_name_is_looked_at_once() -> None:
    """By what each server has a record of, made from its entry, nothing is named that is not known already."""
    config = parse(f"state: /tmp/s.db\nservers:\n{SERVERS}\n", "/etc/snaprotd/config.yaml", {})
    named = [path for _, path in files_of(config)]
    assert named.count(Path("/etc/snaprotd/ping")) == 1
