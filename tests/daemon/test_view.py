"""What a daemon tells of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
