"""The entry point, of `snaprotd` and of `python -m snaprotd`."""

import gc
import os
import signal
import sys


def main() -> None:
    """Run the command. Signals that come while it is still being loaded end it as they should."""
    if os.getpid() == 1:
        # The kernel gives process 1 no signal that it has not asked for: in a container a stop would be lost.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    gc.disable()  # nothing of what is loaded is garbage
    try:
        from snaprotd.commands.cli import main as run_command
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    gc.freeze()
    gc.enable()
    run_command()


if __name__ == "__main__":
    main()
