"""The command for monitors: it asks the provider itself, so that it works without a daemon, and when one is wrong."""

from __future__ import annotations

import asyncio
import os
from typing import IO, Any

import click

from snaprotd import logs
from snaprotd.commands.common import begin, load, server_argument, unforeseen, wait_for, with_config
from snaprotd.commands.jobs.account import Account, read_account
from snaprotd.config.settings import Config
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import read_duration
from snaprotd.report.freshness import Limits, State, TooOld, told_of, without_bar

PATIENCE = 50.0
"""Seconds. A monitor ends what it has started after a minute, and then says nothing of why."""


class _Age(click.ParamType[TooOld]):
    """`1.5`, so many times the expected interval, or a time such as `26h`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TooOld:
        if isinstance(value, TooOld):
            return value
        age = read_duration(value)
        if age is not None and age.total_seconds() > 0:
            return TooOld(age=age)
        try:
            intervals = float(value)
        except ValueError:
            intervals = 0.0
        if not 0 < intervals < 1e6:
            self.fail(f"{value!r} should be a factor of the expected interval (1.5) or a time (26h)", param, ctx)
        return TooOld(intervals=intervals)


class _WrongUsage(click.UsageError):
    """A state that is not known: the usual 2 would be read as critical."""

    exit_code = State.UNKNOWN

    def show(self, file: IO[Any] | None = None) -> None:
        """For whoever types it as ever, and in the one line of standard output that a monitor shows."""
        super().show(file)
        click.echo(_unknown(self.format_message())[1])


class _ForMonitors(click.Command):
    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            raise _WrongUsage(error.format_message(), error.ctx) from error


@click.command(cls=_ForMonitors)
@server_argument(many=True)
@with_config
@click.option("--warning", "-w", default="1.5", show_default=True, type=_Age(), help="Older than that is a warning.")
@click.option("--critical", "-c", default="3", show_default=True, type=_Age(), help="Older than that is critical.")
def fresh(servers: tuple[str, ...], path: str | None, warning: TooOld, critical: TooOld) -> int:
    """Say for a monitor whether each server has a fresh snapshot of ours to restore from.

    \b
    Example:
      snaprotd fresh --warning 26h --critical 50h

    One line with performance data, as Nagios, Icinga and Zabbix read it; exit code 0 (ok), 1 (warning), 2 (critical) or
    3 (unknown). A limit is a time, or a factor of the longest interval that a server's schedule has. The provider is
    asked, and no daemon. Servers whose policy is paused are left out.
    """
    if _is_longer(warning, critical):
        raise _WrongUsage("--warning is more than --critical")
    state, line = _judged(servers, path, Limits(warning=warning, critical=critical))
    click.echo(logs.redactor.clean(line))
    return state


def _is_longer(one: TooOld, other: TooOld) -> bool:
    """As far as the two can be compared without a schedule."""
    if one.age is not None and other.age is not None:
        return one.age > other.age
    return one.age is None and other.age is None and one.intervals > other.intervals


def _judged(servers: tuple[str, ...], path: str | None, limits: Limits) -> tuple[State, str]:
    """Whatever keeps us from looking is a state that is not known, in one line of standard output too."""
    try:
        begin("ERROR")
        settings = load(path)
        account = wait_for(_read(settings, servers))
        targets = account.wanted_targets(settings)
        doubts = {one.server_id: why for one in targets if (why := account.doubt_of(one.server_id)) is not None}
        return told_of(settings, targets, account.known, limits, account.now, doubts, account.clock_ahead)
    except TimeoutError:
        return _unknown(f"the provider has not answered within {PATIENCE:.0f} s")
    except (SnaprotdError, click.ClickException, OSError) as error:
        return _unknown(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except Exception as error:
        return _unknown(str(unforeseen(error)))


async def _read(settings: Config, servers: tuple[str, ...]) -> Account:
    async with asyncio.timeout(PATIENCE):
        return await read_account(settings, os.environ, servers)


def _unknown(why: str) -> tuple[State, str]:
    return State.UNKNOWN, f"UNKNOWN - {without_bar('; '.join(why.splitlines()), 1000)}"
