"""The commands. Each reads the configuration, has the work done elsewhere, prints, and answers with an exit code.

0 done, 1 failed, 2 wrong usage, 78 (sysexits' EX_CONFIG) bad configuration. Results go to standard output, the log
and everything else to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, TextIO, cast

import click

from snaprotd import __version__, logs
from snaprotd.commands.common import FAILED, complain, level_or, unforeseen
from snaprotd.commands.text.terminal import folded
from snaprotd.config.mistakes import render_mistake
from snaprotd.core.errors import ConfigError, SnaprotdError

BAD_CONFIGURATION = 78
INTERRUPTED = 130
"""128 and the number of the signal, as shells have it."""

WHERE = {
    **dict.fromkeys(("run", "check", "notify", "schema", "completion", "simulate", "demo"), "service"),
    **dict.fromkeys(("plan", "list", "status"), "look"),
    **dict.fromkeys(("restore", "delete"), "act"),
    **dict.fromkeys(("hold", "unhold"), "hold"),
    **dict.fromkeys(("leave-off", "ledger"), "owed"),
    "now": "now",
    "fresh": "fresh",
    "history": "past",
    "forecast": "forecast",
}
"""Each command, and the module in this folder that has it."""


def main() -> None:
    """The entry point. An error that we foresaw is a sentence, never a traceback."""
    _open_what_is_closed()
    code = _run()
    if not _is_written(sys.stdout):
        code = code or FAILED
    _is_written(sys.stderr)
    logs.flush()
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Python has no stream for a descriptor that is closed (`>&-`), and the next file opened would get its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _run() -> int:
    """Run the command; its exit code."""
    try:
        code = cli.main(prog_name="snaprotd", standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ConfigError as error:
        _say(_mistakes(error))
        return BAD_CONFIGURATION
    except SnaprotdError as error:
        _complain(str(error))
        return FAILED
    except BrokenPipeError:
        return FAILED  # nobody reads any more, so nobody need be told
    except OSError as error:
        _say(f"snaprotd: {error.strerror or error}")
        return FAILED
    except Exception as error:
        logs.configure(level=level_or("WARNING"))
        _complain(str(unforeseen(error)))
        return FAILED
    return code if isinstance(code, int) else 0


def _complain(sentence: str) -> None:
    with suppress(OSError):
        complain(sentence)


def _say(text: str) -> None:
    """On standard error, if anybody reads it."""
    with suppress(OSError):
        click.echo(logs.redactor.clean(text), err=True)


def _is_written(stream: TextIO) -> bool:
    """Whether what was printed has reached its reader; where not, what is left of it is thrown away.

    Python would find that out at the very end, when an exit code can no longer be chosen: it ends with 120.
    """
    try:
        stream.flush()
    except OSError as error:
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            _say(f"snaprotd: standard output cannot be written: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def _mistakes(error: ConfigError) -> str:
    """Every mistake on a line; on a terminal also the place in the file, with a caret under it."""
    if not sys.stderr.isatty():
        return str(error)
    colour = not os.environ.get("NO_COLOR")
    shown = []
    for mistake in error.mistakes:
        head, line, caret = f"{render_mistake(mistake, error.text, colour=colour)}\n\n".split("\n")[:3]
        shown += [folded(head, sys.stderr, 2), *filter(None, (line, caret))]
    return "\n".join(filter(None, (*shown, error.and_more)))


class _Commands(Mapping[str, click.Command]):
    """The commands by their names, each loaded when it is asked for: all of them take a while."""

    def __getitem__(self, name: str) -> click.Command:
        where = WHERE[name]
        try:
            module = import_module(f"snaprotd.commands.{where}")
        except KeyError as error:  # it would be taken for a command that there is not
            raise ImportError(f"{where} cannot be loaded") from error
        return next(one for one in vars(module).values() if isinstance(one, click.Command) and one.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(WHERE)

    def __len__(self) -> int:
        return len(WHERE)


@click.group(
    commands=cast(Any, _Commands()), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(__version__, prog_name="snaprotd")
def cli() -> None:
    """Keeps rotating snapshots of your VPS.org servers, and never leaves one switched off."""
