"""The commands that run snaprotd, or set it up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click
import structlog
from click.shell_completion import get_completion_class

from snaprotd import logs
from snaprotd.commands.common import (
    FAILED,
    WRONG_USAGE,
    begin,
    load,
    pay_before_telling,
    print_json,
    tell_what_is_forsaken,
    wait_for,
    with_config,
)
from snaprotd.commands.jobs.account import check_online
from snaprotd.commands.text.terminal import tell
from snaprotd.config.addresses import is_open_beyond, read_host
from snaprotd.config.file import json_schema
from snaprotd.config.settings import Config
from snaprotd.config.trust import remarks_on
from snaprotd.config.web_file import WebFile, read_web_file
from snaprotd.core.errors import ConfigError, Mistake, SnaprotdError
from snaprotd.core.words import count
from snaprotd.ledger.address import why_unusable
from snaprotd.report.findings import Finding, remarks_on_names, remarks_on_policies
from snaprotd.report.problems import of_pages
from snaprotd.simulator import FAULT_HELP, Fault

log = structlog.get_logger("snaprotd")

MOST_NAMES = 20
"""By which the pages may be asked for, and of which it is looked whether the certificate is for them."""


@click.command()
@with_config
def run(path: str | None) -> int:
    """Run the daemon.

    \b
    Example:
      snaprotd run --config /etc/snaprotd/config.yaml

    SIGTERM takes no new work, sees every server that is held off started again, and ends with 0.
    """
    try:
        begin("INFO", never_wait=True)
        return wait_for(_live(path))
    except (Exception, asyncio.CancelledError) as error:  # whatever it was, a server may be off because of us
        pay_before_telling(error, path)


async def _live(path: str | None) -> int:
    from snaprotd.daemon.life import Daemon
    from snaprotd.web.door import raise_descriptors

    raise_descriptors()
    daemon = Daemon(load(path), os.environ)
    daemon.obey_signals()
    return await daemon.run()


@click.command()
@with_config
@click.option("--online", is_flag=True, help="Ask the API too: token, servers, free slots. Changes nothing.")
def check(path: str | None, online: bool) -> int:
    """Validate the configuration; every mistake is shown at once.

    \b
    Example:
      snaprotd check --config ./config.yaml --online
    """
    settings = load(path)
    if why := why_unusable(settings.state):
        raise ConfigError([Mistake(source=str(settings.path), path="state", message=why)])
    web_file = None if settings.web_config is None else read_web_file(settings.web_config)
    click.echo(f"{settings.path}: valid, {count(len(settings.entries), 'server entry', 'server entries')}")
    remarks = [
        *remarks_on_policies(settings.entries),
        *remarks_on_names(settings),
        *remarks_on(settings, web_file),
    ]
    if online:
        begin()
    found = [*(_of_certificate(settings, web_file) if web_file else ())]
    found += wait_for(_checked_online(settings)) if online else []
    findings = [*found, *(Finding(ok=True, note=True, text=text) for text in remarks)]
    for finding in findings:
        word = "note" if finding.note else "ok" if finding.ok else "PROBLEM"
        tell(f"{word:<9}{logs.redactor.known(finding.text)}", indent=9)
    if online:
        tell_what_is_forsaken(settings, path)
    return 0 if all(finding.ok for finding in findings) else FAILED


def _of_certificate(settings: Config, web_file: WebFile) -> Iterator[Finding]:
    """What is wrong with the certificate of the pages, or will be soon."""
    from snaprotd.web import certificate  # its libraries take a while to load

    try:
        found = certificate.certificate_of(web_file)
    except SnaprotdError as error:
        yield Finding(ok=False, text=str(error))
        return
    if found is None:
        return
    for problem in of_pages("", found, datetime.now(UTC)):
        yield Finding(ok=True, note=True, text=problem.as_json()["text"])
    for name in _names_of_pages(settings)[:MOST_NAMES]:
        if not certificate.is_for(web_file, name):
            text = f"whoever asks for the pages by the name {name} is told that {found.file} is for another one"
            yield Finding(ok=True, note=True, text=text)


def _names_of_pages(settings: Config) -> tuple[str, ...]:
    """By which people may ask for them from other machines."""
    if isinstance(settings.listen, tuple) and is_open_beyond(settings.listen):
        with suppress(ValueError):  # it is an address
            return (read_host(settings.listen[0]), *settings.allowed_hosts)
    return settings.allowed_hosts


async def _checked_online(settings: Config) -> list[Finding]:
    from snaprotd.commands.jobs.ledgers import findings_of_database
    from snaprotd.commands.jobs.telling import findings_of_channels  # its libraries take a while to load

    found = [*await findings_of_database(settings, os.environ), *await findings_of_channels(settings, os.environ)]
    return [*found, *await check_online(settings, os.environ)]


@click.command()
@with_config
@click.option("--test", is_flag=True, help="Send one message to each, and say what comes back.")
def notify(path: str | None, test: bool) -> int:
    """Show who is told of what happens, and whether their files and names are good; with --test, tell them.

    \b
    Example:
      snaprotd notify --test
    """
    from snaprotd.commands.jobs.telling import look_at, send_tests
    from snaprotd.provider.token import TokenError
    from snaprotd.wiring.access import read_token

    begin()
    settings = load(path)
    with suppress(TokenError):  # none is needed; one that there is, is kept out of what receivers answer
        read_token(settings, os.environ, once=True)
    tried = wait_for(send_tests(settings, os.environ) if test else look_at(settings, os.environ))
    if not tried:
        raise SnaprotdError(f"nobody is told of anything: {settings.path} has neither `notify` nor `heartbeat`")
    for one in tried:
        word = "ok" if one.is_good else "PROBLEM"
        click.echo(f"{word:<9}{one.name:<11}{logs.redactor.clean(f'{one.whom}: {one.said}')}")
    return 0 if all(one.is_good for one in tried) else FAILED


@click.command()
def schema() -> int:
    """Print the JSON Schema of the configuration, for editors.

    \b
    Example:
      snaprotd schema > snaprotd.schema.json
    """
    print_json(json_schema())
    return 0


@click.command(short_help="Make bash, zsh or fish complete commands and servers.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes SHELL complete the commands, their options and your servers.

    \b
    Example:
      snaprotd completion bash > /etc/bash_completion.d/snaprotd
    """
    maker = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if maker is None:
        return WRONG_USAGE
    click.echo(maker(root.command, {}, "snaprotd", "_SNAPROTD_COMPLETE").source())
    return 0


def _fault(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Fault]:
    try:
        return [Fault.parse(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog=f"\b\nFaults:\n{FAULT_HELP}")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--servers", default=3, show_default=True, type=click.IntRange(1, 10000), help="How many servers.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.01, 1e6), help="Times as fast.")
@click.option("--fault", "faults", multiple=True, callback=_fault, metavar="RULE", help="A fault; may be repeated.")
def simulate(port: int, servers: int, speed: float, faults: list[Fault]) -> int:
    """Serve a stand-in for the VPS.org API on loopback.

    It has the limit, the delays and the faults of the real one.

    \b
    Example:
      snaprotd simulate --speed 60 --fault late:POST:/snapshots/:delay=30
    """
    from snaprotd.commands.demo import simulate_until_stopped

    return wait_for(simulate_until_stopped(port=port, servers=servers, speed=speed, faults=faults, say=click.echo))


@click.command(short_help="Watch snaprotd work, on a simulated API.")
@click.option("--servers", default=3, show_default=True, type=click.IntRange(1, 50), help="How many servers.")
@click.option("--rounds", default=None, type=click.IntRange(1), help="End after so many rotations of each server.")
@click.option("--speed", default=60.0, show_default=True, type=click.FloatRange(1, 10000), help="Times as fast.")
def demo(servers: int, rounds: int | None, speed: float) -> int:
    """Watch snaprotd work: the simulated API, a daemon on it, and its pages.

    \b
    Example:
      snaprotd demo --rounds 2
    """
    from snaprotd.commands.demo import run_demo

    return wait_for(run_demo(servers=servers, rounds=rounds, speed=speed, pause=timedelta(seconds=2)))
