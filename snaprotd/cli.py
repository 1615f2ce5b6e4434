"""The commands. Each reads the configuration, has the work done elsewhere, prints, and answers with an exit code.

0 done, 1 failed, 2 wrong usage, 78 (sysexits' EX_CONFIG) bad configuration. Results go to standard output, the log
and everything else to standard error.
"""

from __future__ import annotations

import os
import sys

import click

from snaprotd import __version__, config, logs
from snaprotd.commands import act, forecast, look, service
from snaprotd.commands.common import FAILED
from snaprotd.errors import ConfigError, SnaprotdError

BAD_CONFIGURATION = 78
INTERRUPTED = 130
"""128 and the number of the signal, as shells have it."""


def main() -> None:
    """The entry point. An error that we foresaw is a sentence, never a traceback."""
    try:
        code = cli.main(prog_name="snaprotd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except ConfigError as error:
        click.echo(_mistakes(error), err=True)
        code = BAD_CONFIGURATION
    except SnaprotdError as error:
        click.echo(f"snaprotd: {logs.redactor.clean(str(error))}", err=True)
        code = FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        click.echo(f"snaprotd: {error.strerror or error}", err=True)
        code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _mistakes(error: ConfigError) -> str:
    """Every mistake on a line; on a terminal also the place in the file, with a caret under it."""
    if not sys.stderr.isatty():
        return str(error)
    colour = "NO_COLOR" not in os.environ
    return "\n".join(config.render_mistake(mistake, error.text, colour=colour) for mistake in error.mistakes)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="snaprotd")
def cli() -> None:
    """Keeps rotating snapshots of your VPS.org servers, and never leaves one switched off."""


for command in (*service.COMMANDS, *look.COMMANDS, *forecast.COMMANDS, *act.COMMANDS):
    cli.add_command(command)
