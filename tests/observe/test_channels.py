"""What waits for somebody waits for him in another order of the file too."""

from __future__ import annotations

from pathlib import Path

from snaprotd.config.file import parse
from snaprotd.wiring.channels import open_channels

SERVERS = 'servers: [{id: 1, schedule: "@daily"}]\n'


def names(folder: Path, *ways: str) -> list[str]:
    text = "notify:\n" + "".join(f"  - {way}\n" for way in ways) + SERVERS
    return [channel.name for channel in open_channels(parse(text, str(folder / "config.yaml"), {}), {}).told]


def test_a_channel_is_called_by_whom_it_tells_and_each_otherwise(tmp_path: Path) -> None:
    one, other = (f"webhook: {{url_file: {tmp_path}/{name}}}" for name in ("one", "other"))
    mail = "email: {to: [a@example.org], from: b@example.org, smtp: 'localhost:25'}"
    before, after = names(tmp_path, one, mail), names(tmp_path, other, mail, one, one)
    assert set(before) < set(after)
    assert (len(set(after)), after[0] in before) == (4, False)
