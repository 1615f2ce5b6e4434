"""Stands in for a ledger that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.sqlite import sqlite_engine
from snaprotd.ledger.store import Ledger


class NoLedger(Ledger):
    """Stands in where the ledger cannot be used: whatever is asked of it fails, and says why."""

    def __init__(self, why: str) -> None:
        super().__init__(sqlite_engine(Path(os.devnull)), owner="", lease=60.0, lock=None)
        self._why = why

    def _transaction(self) -> NoReturn:
        raise LedgerError(self._why)
