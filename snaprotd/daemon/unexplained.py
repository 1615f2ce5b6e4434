"""A server that is off, and a fresh snapshot of ours of which the ledger has no row: it may be off because of us.

So it is where the ledger was deleted with all that stood beside it, or an old copy of it was put back, while nobody
lived. Nothing owes a start then, and nothing is started: a server may be off by somebody's wish. A person is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from snaprotd.config.settings import Config, Target
from snaprotd.core.ownership import taken_since
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, suspected
from snaprotd.engine.tools import Tools

log = structlog.get_logger("snaprotd.daemon")

FRESH = timedelta(days=1)
"""A snapshot that is older does not tell why a server is off."""


async def ask_about_unexplained(tools: Tools, config: Config, targets: Iterable[Target], now: datetime) -> bool:
    """Look at what was listed last, and have the keeper take up what it shows. True if there is anything.

    Raises `LedgerError`.
    """
    starts, found = tools.ledger.starts, False
    for target in targets:
        server = tools.inventory.seen_servers.get(target.server_id)
        held = tools.inventory.known.get(target.server_id)
        if not target.policy.stop_first or held is None or server is None or not server.is_stopped:
            continue
        kept = await starts.kept(starts.account, target.server_id)
        known = Power() if kept is None else kept.power
        slots = await starts.slots_of(target.server_id)
        newest = taken_since(now - FRESH, held.snapshots, instance=config.instance, known=slots)
        if known.is_followed or newest is None:
            continue
        log.error("a server is off, and the ledger does not know of our last snapshot of it", server=target.label)
        suspicion = suspected(known, newest.created_at or now)
        terms = replace(starts.terms, start_timeout=target.policy.start_timeout.total_seconds())
        await starts.save(
            ServerPower(
                account=starts.account,
                server_id=target.server_id,
                label=target.label,
                power=suspicion,
                terms=terms,
            )
        )
        found = True
    return found
