"""What the commands share: their options, and how they begin and print."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from traceback import extract_tb
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
import structlog
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from snaprotd import logs
from snaprotd.commands.text.terminal import tell
from snaprotd.config.file import find_config, named_config
from snaprotd.config.file import load as load_file
from snaprotd.config.remains import remains_of
from snaprotd.config.settings import Config
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.words import printable
from snaprotd.report.rows import shown
from snaprotd.way.names import run

FAILED = 1
WRONG_USAGE = 2

COLLECTED_AFTER = 50_000
"""Objects more than before, where a command ends soon: all of an account is taken in, and hardly any of it let go."""

BACKSLASH = "\\"

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

log = structlog.get_logger("snaprotd")

P = ParamSpec("P")
T = TypeVar("T")


def with_config(command: Callable[P, int]) -> Callable[P, int]:
    """Give a command the option --config."""
    return click.option(
        "--config",
        "path",
        metavar="PATH",
        help="The configuration file. Default: $SNAPROTD_CONFIG, else /etc/snaprotd/config.yaml.",
        shell_complete=lambda *_: [CompletionItem("", type="file")],
    )(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class _QuotingBash(BashComplete):
    """bash puts what it is given on the command line as it is; other shells quote it themselves."""

    def format_completion(self, item: CompletionItem) -> str:
        # Its `read` takes a backslash away.
        return f"{item.type},{quote(item.value).replace(BACKSLASH, 2 * BACKSLASH)}"


add_completion_class(_QuotingBash)


def _names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The names and ids that the configuration has. A file that cannot be read completes to nothing."""
    try:
        entries = load(context.params.get("path")).entries
    except SnaprotdError:
        return []
    names = [name for entry in entries for name in (entry.name, entry.key) if name]
    return [name for name in names if name.startswith(incomplete)]


def server_argument(*, many: bool = False, required: bool = True) -> Callable[[Callable[P, int]], Callable[P, int]]:
    if many:
        return click.argument("servers", nargs=-1, metavar="[SERVER]...", shell_complete=_names)
    return click.argument(
        "server", required=required, metavar="SERVER" if required else "[SERVER]", shell_complete=_names
    )


def config_path(path: str | None) -> Path:
    """Where the configuration is, or would be."""
    return named_config(path, os.environ)[0]


def load(path: str | None) -> Config:
    return load_file(find_config(path, os.environ))


def begin(level: str = "WARNING", *, never_wait: bool = False) -> None:
    """Send the log to standard error; a command that prints a result only lets warnings through.

    One that may hold a server off must `never_wait` for who reads there.
    """
    if never_wait:
        logs.never_wait()
    else:
        gc.set_threshold(COLLECTED_AFTER, *gc.get_threshold()[1:])
    asked = os.environ.get("SNAPROTD_LOG_LEVEL", level).upper()
    logs.configure(level=level_or(level))
    if asked not in LEVELS:
        raise click.UsageError(f"SNAPROTD_LOG_LEVEL is `{asked}`: there are {', '.join(LEVELS)}")


def level_or(level: str) -> str:
    """From which level on the log is written: as the environment has it, else `level`."""
    asked = os.environ.get("SNAPROTD_LOG_LEVEL", level).upper()
    return asked if asked in LEVELS else level


def unforeseen(error: BaseException) -> SnaprotdError:
    """A mistake of ours as a sentence, with its place; the way that led there is in the log, without any value."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    ways = [
        [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(one.__traceback__)] for one in causes
    ]
    log.error("internal error", error=repr(error), causes=list(map(repr, causes[1:])), ways=ways)
    place = ways[0][-1].rpartition("/")[2] if ways[0] else "an unknown place"
    what = " ".join(str(error).split()) or "no reason was given"
    return SnaprotdError(
        f"internal error, {type(error).__name__} at {place}: {what}. It is a mistake in snaprotd, perhaps about "
        "something damaged that it has read: please report it with the line `internal error` of the log"
    )


def pay_before_telling(error: BaseException, path: str | None) -> NoReturn:
    """What is owed is paid before anybody is told why the process ended. Only then 78 may say: do not try again."""
    logs.configure(level=level_or("INFO"))
    why = error if isinstance(error, SnaprotdError | click.ClickException) else unforeseen(error)
    try:
        is_paid = wait_for(_last_resort(path, why))
    except (Exception, asyncio.CancelledError) as another:
        log.error("what is owed may not be paid", error=str(unforeseen(another)))
        is_paid = False
    if isinstance(why, ConfigError) and not is_paid:
        raise SnaprotdError(str(why)) from error
    raise why from error


async def _last_resort(path: str | None, why: Exception) -> bool:
    """In an event loop of its own: nothing of what has failed goes on beside it."""
    from snaprotd.daemon.last_resort import ledgers_named, pay_what_is_owed

    file = config_path(path)
    remains = remains_of(file)
    return await pay_what_is_owed(ledgers_named(file, remains, os.environ), os.environ, why, remains=remains)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    return run(work)


def print_json(value: Any) -> None:
    told = shown(value)
    click.echo(rows_json(told) if isinstance(told, list) else json.dumps(told, indent=2, ensure_ascii=False))


def rows_json(rows: Sequence[Any]) -> str:
    """With an indent of two, for which the library goes without its encoder in C: that is ten times as fast."""
    return "[\n  " + ",\n  ".join(map(_row_json, rows)) + "\n]" if rows else "[]"


_NESTED = frozenset({dict, list, tuple})
_AS_A_ROW = json.JSONEncoder(separators=(",\n    ", ": "), ensure_ascii=False).encode


def _row_json(row: Any) -> str:
    if not row or not isinstance(row, dict) or not _NESTED.isdisjoint(map(type, row.values())):
        return json.dumps(row, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    return "{\n    " + _AS_A_ROW(row)[1:-1] + "\n  }"


def tell_what_is_forsaken(config: Config | None, path: str | None, *, but: Collection[str] = ()) -> None:
    """On standard error, in one line, the starts that are owed and that no process sees to; not those of ids in `but`.

    Whatever a command is for: the server is off because of us, and there may be no daemon that tells it.
    """
    from snaprotd.commands.jobs.leave_off import forsaken  # its library takes a while to load

    with suppress(SnaprotdError, OSError):
        if sentence := wait_for(forsaken(config_path(path), os.environ, config, but)):
            complain(sentence)


def complain(sentence: str) -> None:
    """What was not as it should be, on standard error. It may quote an argument, which may be anybody's text."""
    fit = "\n".join(printable(line, len(line)) for line in logs.redactor.clean(sentence).split("\n"))
    tell(f"snaprotd: {fit}", err=True)
