"""The commands. Each reads the configuration, has the work done elsewhere, prints, and answers with an exit code.

0 done, 1 failed, 2 wrong usage, 78 (sysexits' EX_CONFIG) bad configuration. Results go to standard output, the log
and everything else to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec

import click
import structlog

from snaprotd import __version__, config, logs
from snaprotd.daemon import Daemon
from snaprotd.demo import run_demo, simulate_until_stopped
from snaprotd.errors import ConfigError, SnaprotdError
from snaprotd.oneshot import Account, check_online, read_account, rotate_now
from snaprotd.reports import Json, outcome_of, plan_of, snapshot_rows
from snaprotd.rotation import Result, Rotation
from snaprotd.simulator import FAULT_HELP, Fault
from snaprotd.tables import check_text, list_text, now_text, plan_text

FAILED = 1
BAD_CONFIGURATION = 78

P = ParamSpec("P")


def main() -> None:
    """The entry point. An error that we foresaw is a sentence, never a traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except ConfigError as error:
        click.echo(_mistakes(error), err=True)
        code = BAD_CONFIGURATION
    except SnaprotdError as error:
        click.echo(f"snaprotd: {logs.redactor.clean(str(error))}", err=True)
        code = FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _mistakes(error: ConfigError) -> str:
    """Every mistake on a line; on a terminal also the place in the file, with a caret under it."""
    if not sys.stderr.isatty():
        return str(error)
    return "\n".join(config.render_mistake(mistake, error.text, colour=True) for mistake in error.mistakes)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="snaprotd")
def cli() -> None:
    """Keeps rotating snapshots of your VPS.org servers, and never leaves one switched off."""


def with_config(command: Callable[P, int]) -> Callable[P, int]:
    """Give a command the option --config."""
    return click.option(
        "--config",
        "path",
        metavar="PATH",
        help="The configuration file. Default: $SNAPROTD_CONFIG, else /etc/snaprotd/config.yaml.",
    )(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def logged(command: Callable[P, int]) -> Callable[P, int]:
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        logs.configure(level=os.environ.get("SNAPROTD_LOG_LEVEL", "INFO").upper())
        return command(*args, **kwargs)

    return run


def _load(path: str | None) -> config.Config:
    return config.load(config.find_config(path, os.environ))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _run(work: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(work)


@cli.command()
@with_config
@logged
def run(path: str | None) -> int:
    """Run the daemon.

    \b
    Example:
      snaprotd run --config /etc/snaprotd/config.yaml

    SIGTERM takes no new work, sees every server that is held off started again, and ends with 0.
    """

    async def live() -> int:
        daemon = Daemon(_load(path), os.environ)
        daemon.obey_signals()
        return await daemon.run()

    return _run(live())


@cli.command()
@with_config
@click.option("--online", is_flag=True, help="Ask the API too: token, servers, free slots. Changes nothing.")
def check(path: str | None, online: bool) -> int:
    """Validate the configuration; every mistake is shown at once.

    \b
    Example:
      snaprotd check --config ./config.yaml --online
    """
    settings = _load(path)
    click.echo(check_text(settings))
    if not online:
        return 0
    logs.configure(level="WARNING")
    findings = _wait_for(check_online(settings, os.environ))
    for finding in findings:
        click.echo(("ok       " if finding.ok else "PROBLEM  ") + finding.text)
    return 0 if all(finding.ok for finding in findings) else FAILED


def _wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@cli.command()
@click.argument("servers", nargs=-1)
@with_config
@click.option("--next", "count", default=3, show_default=True, type=click.IntRange(0, 100), help="Runs to show.")
@as_json
def plan(servers: tuple[str, ...], path: str | None, count: int, as_json: bool) -> int:
    """Show the next runs, and what would be kept or deleted and why. Changes nothing.

    \b
    Example:
      snaprotd plan web-01 --next 5
    """
    logs.configure(level="WARNING")
    settings = _load(path)
    account: Account = _wait_for(read_account(settings, os.environ, servers))
    targets = [target for target in account.targets if target.server_id in account.wanted]
    report: Json = {
        "servers": [
            plan_of(settings, target, account.known.get(target.server_id), now=account.now, count=count)
            for target in targets
        ]
    }
    if as_json:
        _print_json(report)
    else:
        click.echo(plan_text(report, targets, settings))
    return 0 if all(account.exists(target.server_id) for target in targets) else FAILED


@cli.command(name="list")
@click.argument("servers", nargs=-1)
@with_config
@as_json
def list_(servers: tuple[str, ...], path: str | None, as_json: bool) -> int:
    """Show the snapshots of the configured servers, or of those named.

    \b
    Example:
      snaprotd list web-01 --json
    """
    logs.configure(level="WARNING")
    settings = _load(path)
    account: Account = _wait_for(read_account(settings, os.environ, servers))
    rows = snapshot_rows(settings, account.targets, account.known, account.wanted)
    if as_json:
        _print_json(rows)
    else:
        click.echo(list_text(rows, account.now))
    return 0


@cli.command()
@click.argument("server")
@with_config
@click.option("--description", default="", metavar="TEXT", help="A description to store with the snapshot.")
@as_json
def now(server: str, path: str | None, description: str, as_json: bool) -> int:
    """Run one rotation of SERVER at once, and wait for its end.

    \b
    Example:
      snaprotd now web-01 --description "before the upgrade"

    It goes through the same ledger as the daemon: it refuses while a rotation of this server is open. Ctrl-C sees
    the server started again if it is held off; a second one ends at once.
    """
    logs.configure(level="WARNING")
    structlog.contextvars.clear_contextvars()
    settings = _load(path)
    rotation: Rotation = _wait_for(rotate_now(settings, os.environ, server, description, _progress()))
    if as_json:
        _print_json(outcome_of(rotation))
    else:
        click.echo(now_text(rotation))
    return 0 if rotation.result is Result.SUCCESS else FAILED


def _progress() -> Callable[[Rotation], None]:
    """Prints a line to standard error whenever the step, or what it waits for, changes."""
    last = ""

    def show(rotation: Rotation) -> None:
        nonlocal last
        line = f"{rotation.label}: {rotation.step}{': ' + rotation.note if rotation.note else ''}"
        if line != last:
            click.echo(line, err=True)
            last = line

    return show


@cli.command()
def schema() -> int:
    """Print the JSON Schema of the configuration, for editors.

    \b
    Example:
      snaprotd schema > snaprotd.schema.json
    """
    _print_json(config.json_schema())
    return 0


def _fault(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Fault]:
    try:
        return [Fault.parse(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@cli.command(epilog=f"\b\nFaults:\n{FAULT_HELP}")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--servers", default=3, show_default=True, type=click.IntRange(1, 10000), help="How many servers.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.01, 1e6), help="Times as fast.")
@click.option("--fault", "faults", multiple=True, callback=_fault, metavar="RULE", help="A fault; may be repeated.")
def simulate(port: int, servers: int, speed: float, faults: list[Fault]) -> int:
    """Serve a stand-in for the VPS.org API on loopback, with its limit, its delays and its faults.

    \b
    Example:
      snaprotd simulate --speed 60 --fault late:POST:/snapshots/:delay=30
    """
    return _run(simulate_until_stopped(port=port, servers=servers, speed=speed, faults=faults, say=click.echo))


@cli.command()
@click.option("--servers", default=3, show_default=True, type=click.IntRange(1, 50), help="How many servers.")
@click.option("--rounds", default=None, type=click.IntRange(1), help="End after so many rotations of each server.")
@click.option("--speed", default=60.0, show_default=True, type=click.FloatRange(1, 10000), help="Times as fast.")
def demo(servers: int, rounds: int | None, speed: float) -> int:
    """Watch snaprotd work: the simulated API, a daemon on it, and its pages.

    \b
    Example:
      snaprotd demo --rounds 2
    """
    return _run(run_demo(servers=servers, rounds=rounds, speed=speed, pause=timedelta(seconds=2)))
