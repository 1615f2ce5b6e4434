"""Where a ledger is, and what it is called wherever that is shown. Loads no database."""

from __future__ import annotations

import os
from urllib.parse import urlsplit


def name_of(state: str) -> str:
    """What the ledger of the key `state` is called: its file in full, or its address without a user and password."""
    if "://" not in state:
        return os.path.abspath(state)
    url = urlsplit(state)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def why_unusable(state: str) -> str:
    """Why this version cannot open the ledger that `state` names; empty where it can."""
    return "PostgreSQL is not supported by this version: name a file" if "://" in state else ""
