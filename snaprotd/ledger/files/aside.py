"""What is told of the ledger itself, which cannot hold it just then: noted beside it, or where else that can be."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import demand_ours, write_anew

log = structlog.get_logger("snaprotd.ledger")

LONGEST = 1024 * 1024
"""Bytes of a note that are read."""


class Aside:
    """One note of one ledger. A full disk, or one that is read-only, is often the ledger's alone."""

    def __init__(self, ledger: Path, environ: Mapping[str, str] = os.environ) -> None:
        """`environ` names systemd's folders for the service: its folder for temporary files ends with the process."""
        name = f"snaprotd-told-{hashlib.sha256(os.fsencode(ledger.absolute())).hexdigest()[:16]}"
        self._places = [ledger.with_name(f"told-of-{ledger.name}")]
        folders = f"{environ.get('RUNTIME_DIRECTORY', '')}:{environ.get('CACHE_DIRECTORY', '')}".split(":")
        self._places += [Path(folder, name) for folder in folders if os.path.isabs(folder)]
        with suppress(OSError):  # it looks for a folder that can be written: where all disks are full there is none
            self._places.append(Path(tempfile.gettempdir(), name))
        self._noted: str | None = None

    def note(self, text: str) -> None:
        """Have it noted, in the first place that can be written. Where none can be, that is told, and no more."""
        if text == self._noted:
            return
        self._noted = text
        for number, place in enumerate(self._places):
            with suppress(OSError):
                write_anew(place, text)
                for other in self._places[number + 1 :]:
                    other.unlink(missing_ok=True)
                return
        log.warning("what is told of the ledger is noted nowhere: a restart tells it again, and no end of it")

    def read(self) -> str | None:
        """What is noted; None where nothing is, or it is not ours."""
        for place in self._places:
            with suppress(OSError, LedgerError, UnicodeError):
                demand_ours(place)
                with place.open("rb") as opened:
                    self._noted = opened.read(LONGEST).decode()
                    return self._noted
        return None

    def clear(self) -> None:
        """The ledger has it now."""
        for place in self._places:
            with suppress(OSError):
                place.unlink(missing_ok=True)
        self._noted = None
