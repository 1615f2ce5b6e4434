"""The commands that only look."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import click
from rich.console import RenderableType
from rich.text import Text

from snaprotd.commands.common import (
    FAILED,
    as_json,
    begin,
    complain,
    load,
    print_json,
    server_argument,
    tell_what_is_forsaken,
    wait_for,
    with_config,
)
from snaprotd.commands.jobs.account import Account, nights_of, read_account, read_capacity
from snaprotd.commands.jobs.status_client import Place, Unreachable, default_place, read_status
from snaprotd.commands.text.capacity import capacity_text
from snaprotd.commands.text.tables import list_text, plan_text, status_text
from snaprotd.commands.text.terminal import screen, show
from snaprotd.config.settings import Config
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.words import Json
from snaprotd.report.capacity import capacity_json, facts_of
from snaprotd.report.rows import notes_on, people_plan_of, plan_of, shown, snapshot_rows

WATCH_EVERY = 2.0
"""Seconds between two looks of `status --watch`."""

ALARMED = 2
CODES = {"ok": 0, "attention": 1}
"""The exit codes of `status`, by what is told; of any other word it is `ALARMED`."""


@click.command()
@server_argument(many=True)
@with_config
@click.option("--next", "count", default=3, show_default=True, type=click.IntRange(0, 100), help="Runs to show.")
@click.option("--capacity", is_flag=True, help="Show what a night takes, and whether it fits, instead.")
@as_json
def plan(servers: tuple[str, ...], path: str | None, count: int, capacity: bool, as_json: bool) -> int:
    """Show the next runs, and what would be kept or deleted and why. Changes nothing.

    \b
    Example:
      snaprotd plan web-01 --next 5
      snaprotd plan --capacity
    """
    begin()
    settings = load(path)
    account = wait_for(read_account(settings, os.environ, servers))
    if capacity:
        return _show_capacity(settings, account, as_json=as_json)
    targets = account.wanted_targets(settings)
    write = plan_of if as_json else people_plan_of
    nights = {} if as_json else wait_for(nights_of(settings, account.targets))
    plans: list[Json] = [
        write(
            settings,
            target,
            account.known.get(target.server_id),
            now=account.now,
            machine=account.machine,
            count=count,
            doubt=account.doubt_of(target.server_id),
        )
        for target in targets
    ]
    if as_json:
        print_json({"servers": plans})
    else:
        for one, target in zip(plans, targets, strict=True):
            one["group"] = nights.get(target.policy.group, "")
        show(plan_text(shown(plans), account.now, settings.limit))
    for doubt in dict.fromkeys(filter(None, map(account.doubt_of, account.wanted))):
        complain(doubt)
    tell_what_is_forsaken(settings, path)
    return 0 if account.is_whole else FAILED


def _show_capacity(settings: Config, account: Account, *, as_json: bool) -> int:
    read = read_capacity(settings, account.targets, account.known, account.page_size)
    if (foreseen := wait_for(read)) is None:
        raise SnaprotdError("no slot lies ahead in the next week: there is no night to be looked at")
    told = capacity_json(foreseen, account.targets, account.wanted)
    if as_json:
        print_json(told)
    else:
        show(capacity_text(facts_of(foreseen), shown(told)))
    if account.doubt is not None:
        complain(account.doubt)
    return 0 if account.is_whole else FAILED


@click.command(name="list", short_help="Show the snapshots, with owner, status, size and age.")
@server_argument(many=True)
@with_config
@as_json
def list_(servers: tuple[str, ...], path: str | None, as_json: bool) -> int:
    """Show the snapshots of the configured servers, or of those named.

    \b
    Example:
      snaprotd list web-01 --json
    """
    begin()
    settings = load(path)
    account = wait_for(read_account(settings, os.environ, servers, is_to_judge=False))
    rows = snapshot_rows(settings, account.targets, account.known, account.wanted)
    if as_json:
        print_json(rows)
    elif rows or account.is_whole:
        notes = notes_on(settings, account.targets, account.known, account.now)
        show(list_text(shown(rows), account.now, account.headings, notes))
    for complaint in account.complaints:
        complain(complaint)
    tell_what_is_forsaken(settings, path)
    return 0 if account.is_whole else FAILED


@click.command()
@click.option("--url", metavar="URL", help="The daemon's address. Default: the configuration's `listen`.")
@click.option("--watch", is_flag=True, help="Look again every 2 seconds, until Ctrl-C.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever the daemon tells.")
@with_config
@as_json
def status(url: str | None, watch: bool, exit_zero: bool, path: str | None, as_json: bool) -> int:
    """Show how everything stands, as the running daemon tells it.

    \b
    Example:
      snaprotd status --url http://127.0.0.1:9877

    It exits with 0 where all is well, 1 where something is to be looked at, and 2 where there is an alarm or no daemon
    answers. A URL is http://HOST:PORT, https://HOST:PORT or unix:/PATH. Where the pages have passwords, user and
    password are those of the URL or of $SNAPROTD_STATUS_AUTH (USER:PASSWORD), which other users of this machine do not
    see.
    """
    begin()
    if watch and as_json:
        raise click.UsageError("--watch shows tables: it does not go with --json.")
    if watch:
        code = watched(lambda: _told_by(url, path))
        return 0 if exit_zero else code
    told = _told_by(url, path)
    if told.report is None:
        complain(str(told.shown))
        if url is None and told.is_silent:
            tell_what_is_forsaken(_loaded(path), path)
        return told.code
    if as_json:
        print_json(told.report)
    else:
        show(told.shown)
    return 0 if exit_zero else told.code


@dataclass(frozen=True)
class _Told:
    """What a look at the daemon came to."""

    code: int
    shown: RenderableType
    report: Json | None = None
    """None where there is none that can be understood."""
    is_silent: bool = False
    """Nobody answers."""


def _told_by(url: str | None, path: str | None) -> _Told:
    try:
        report = read_status(_place(path) if url is None else Place(url), os.environ)
        return _Told(_code_of(report), status_text(report), report)
    except Unreachable as error:
        return _Told(ALARMED, Text(str(error)), is_silent=True)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # whoever is there may say anything
        text = f"what answers there tells a status that cannot be understood ({type(error).__name__})"
        return _Told(ALARMED, Text(text))


def watched(look: Callable[[], _Told]) -> int:
    """Show one look after the other, until Ctrl-C; the exit code of the last."""
    told = look()
    with suppress(KeyboardInterrupt), screen() as show_instead:
        while True:
            show_instead(told.shown)
            time.sleep(WATCH_EVERY)
            told = look()
    return told.code


def _code_of(report: Json) -> int:
    """The worst that is told. A word that nobody knows is no good news."""
    states = [report["state"], *(problem["severity"] for problem in report["problems"])]
    return max(CODES.get(state, ALARMED) for state in states)


def _loaded(path: str | None) -> Config | None:
    """None where it is refused, which was told."""
    with suppress(ConfigError):
        return load(path)
    return None


def _place(path: str | None) -> Place:
    """Where the daemon listens. What is wrong with its file must not keep anybody from looking at it."""
    try:
        return default_place(load(path))
    except ConfigError as error:
        click.echo(f"{error}\nsnaprotd: so its usual address is asked; --url names another", err=True)
        return default_place(None)
