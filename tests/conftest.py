"""How tests run: an `async def` test runs on virtual time, unless it is marked `real_time`; files live in memory."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from snaprotd.config import trust
from snaprotd.logs import redactor
from snaprotd.wiring.access import open_cloud
from tests.support.daemons import Line, look_around_less
from tests.support.databases import Server, server
from tests.support.followers import MARKS_APART
from tests.support.searches import set_the_usual
from tests.support.selection import is_virtual, pytest_addoption, pytest_collection_modifyitems  # noqa: F401
from tests.support.stages import Stage, stage
from tests.support.virtual_time import run_virtually

set_the_usual()

trust.USUAL |= {"vps.invalid", "other.invalid"}
"""Where the providers are of tests that run in this process; no request of theirs leaves it."""

if os.path.isdir("/dev/shm"):
    # A ledger waits for its disk at every write; tests make thousands.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    story = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    stage_of_module = pyfuncitem.funcargs.get("module_stage")
    if isinstance(stage_of_module, Stage):
        stage_of_module.runner.run(story)
    elif is_virtual(pyfuncitem):
        run_virtually(story)
    else:
        asyncio.run(story)
    return True


@pytest.fixture(scope="module")
def module_stage() -> Iterator[Stage]:
    """For scenes that tests only look at. Every test that asks for one of them runs on the stage's loop."""
    with stage() as built:
        yield built


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What a test has set for all, as a command does that configures the log, is gone before the next one."""
    structlog.reset_defaults()
    secrets = dict(vars(redactor))
    yield
    structlog.reset_defaults()
    vars(redactor).update(secrets)


@pytest.fixture
def silence(_as_it_was: None) -> None:
    """No log. Days of log lines take longer than the days."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are judged by the virtual clock too."""
    for module in ("ledger.store", "ledger.sql.replicas", "daemon.fleet.membership"):
        monkeypatch.setattr(f"snaprotd.{module}.uptime", lambda: asyncio.get_running_loop().time())


@pytest.fixture
def few_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledgers are given fewer marks of life, and take them for as close as they are."""
    monkeypatch.setattr("snaprotd.core.creation.PAUSE_IN_LIFE", MARKS_APART)


@pytest.fixture
def commands_reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[httpx.AsyncBaseTransport], None]:
    """Have commands in this process speak to a simulated provider."""

    def reach(transport: httpx.AsyncBaseTransport) -> None:
        for module in ("by_hand", "account", "outlook"):
            monkeypatch.setattr(f"snaprotd.commands.jobs.{module}.open_cloud", partial(open_cloud, transport=transport))

    return reach


@pytest.fixture
def log(_as_it_was: None) -> Iterator[list[Line]]:
    """What was logged. Hours of it take longer to write than the hours."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server of this process's own."""
    with server() as started:
        yield started


@pytest.fixture
def few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks around less often, for hours that pass quickly; and at no round time, when stories end."""
    look_around_less(monkeypatch, tick=31.3, leases=14.1, file=20.3, account=61.7)
