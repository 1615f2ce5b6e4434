"""The command that looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import click

from snaprotd.commands.common import as_json, load, print_json, server_argument, with_config
from snaprotd.commands.text.forecast import forecast_text
from snaprotd.commands.text.terminal import show
from snaprotd.config.settings import Config, ServerEntry
from snaprotd.core.errors import SnaprotdError, UnknownServer
from snaprotd.core.policy import Rules
from snaprotd.forecast.as_json import forecast_json
from snaprotd.forecast.as_svg import drawing
from snaprotd.forecast.expect import alike, expect
from snaprotd.forecast.runs import Assumed, Outage, TooManyRuns
from snaprotd.forecast.words import Named

LONGEST = 3660
"""Days: ten years."""


def _outages(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Outage, ...]:
    try:
        return tuple(Outage.parse(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@server_argument(required=False)
@with_config
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, LONGEST), help="How far to look.")
@click.option(
    "--outage",
    "outages",
    multiple=True,
    callback=_outages,
    metavar="BEGIN..END",
    help="The daemon is down, as in 3d..9d; may be repeated.",
)
@click.option("--fail", default=0.0, type=click.FloatRange(0, 1), help="The share of runs that fail, as in 0.1.")
@click.option("--seed", default=1, show_default=True, help="Decides which runs fail.")
@click.option("--foreign", default=0, type=click.IntRange(0, 5), help="Snapshots of somebody else on the server.")
@click.option("--held", default=0, type=click.IntRange(0, 5), help="Snapshots that are held all the time.")
@click.option("--svg", "svg", metavar="FILE", help="Draw it, too, every snapshot as a bar.")
@as_json
def forecast(
    server: str | None,
    path: str | None,
    days: int,
    outages: tuple[Outage, ...],
    fail: float,
    seed: int,
    foreign: int,
    held: int,
    svg: str | None,
    as_json: bool,
) -> int:
    """Show what a policy will leave you with, before you trust it.

    The schedule and the rules of `keep` are run ahead of time, from a server without snapshots on: how many restore
    points there will be, how old the newest gets, how far back one can go. Asks nobody: no token, no network.

    \b
    Example:
      snaprotd forecast web-01 --days 30 --outage 3d..9d --fail 0.1
    """
    settings = load(path)
    assumed = Assumed(days=days, outages=outages, fail=fail, seed=seed, foreign=foreign, held=held)
    forecasts = _forecasts(settings, server, assumed)
    if svg is not None:
        _write(Path(svg), drawing(forecasts))
    if as_json:
        print_json({"forecasts": forecast_json(forecasts)})
    else:
        show(forecast_text(forecasts))
    return 0


def _forecasts(settings: Config, server: str | None, assumed: Assumed) -> list[Named]:
    if not 0 <= assumed.fail <= 1:  # not a number: click lets it pass
        raise click.UsageError("--fail takes a share from 0 to 1")
    late = next((one for one in assumed.outages if one.begin >= timedelta(days=assumed.days)), None)
    if late is not None:
        raise click.UsageError(f"an outage begins on day {late.begin.days}, after the {assumed.days} days of --days")
    if assumed.foreign > settings.limit:
        raise click.UsageError(f"--foreign {assumed.foreign}: a server holds {settings.limit} snapshots (`limit`)")
    if assumed.held and assumed.held + assumed.foreign > settings.limit - 2:
        raise click.UsageError(f"--held {assumed.held}: what is held leaves two of the slots to rotation")
    start = datetime.now(UTC).replace(microsecond=0)
    entries = _entries(settings, server)
    named = [(_name(entry), entry.policy) for entry in entries]
    rules = Rules(policy=entries[0].policy, instance=settings.instance, limit=settings.limit)
    try:
        return [
            (names, expect(replace(rules, policy=policy), start=start, assumed=assumed))
            for names, policy in alike(named)
        ]
    except TooManyRuns as error:
        raise click.UsageError(str(error)) from error


def _name(entry: ServerEntry) -> str:
    return entry.name or entry.key or entry.match or ""


def _entries(settings: Config, server: str | None) -> Sequence[ServerEntry]:
    """Every entry, or the one of the server that is named: by id, by our name for it, or by a name that a `match` fits.

    Raises UnknownServer.
    """
    if server is None:
        return settings.entries
    for entry in settings.entries:
        if server in (entry.key, entry.name, entry.match):
            return [entry]
    for entry in settings.entries:
        if entry.match is not None and fnmatchcase(server, entry.match):
            return [entry]
    raise UnknownServer(f"no server is named {server}, and no `match` fits it, in {settings.path}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SnaprotdError(f"{path} cannot be written: {error.strerror or error}") from None
    click.echo(f"snaprotd: drawn in {path}", err=True)
