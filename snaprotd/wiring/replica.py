"""Which replica this process is, among those that share a ledger on a server."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from snaprotd import __version__
from snaprotd.config.settings import Config, as_written
from snaprotd.core.fleet import Replica
from snaprotd.core.policy import Policy
from snaprotd.wiring.assembly import account_of


def this_replica(decides: str, id_: str) -> Replica:
    """The row of this process, before any look. `decides`: the `hash_of` its configuration."""
    host = os.uname().nodename
    return Replica(id=id_, beat=0, version=__version__, config=decides, generation=0, host=host)


def hash_of(config: Config) -> str:
    """Of what decides what is done to which server; not of paths, of `listen`, or of who is told.

    A key that is as it is by default counts for nothing: a newer version may know more of them.
    Of thousands of servers it takes a while: not on the loop.
    """
    by_policy: dict[tuple[Policy, frozenset[str]], dict[str, Any]] = {}

    def decides_of(policy: Policy, keys: frozenset[str]) -> dict[str, Any]:
        """Thousands of servers have a handful of policies."""
        if (known := by_policy.get((policy, keys))) is None:
            known = by_policy[policy, keys] = _decides(policy, keys)
        return known

    decides = {
        "account": account_of(config),
        "instance": config.instance,
        "limit": config.limit,
        "settle": config.api.settle,
        "rates": [config.api.requests_per_second, config.max_concurrent],
        "servers": [
            [one.key, one.match, one.name, decides_of(one.policy, frozenset(one.origins))] for one in config.entries
        ],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _decides(policy: Policy, keys: Iterable[str]) -> dict[str, Any]:
    usual = Policy(schedule=policy.schedule)
    its = {key: getattr(policy, key) for key in keys if getattr(policy, key) != getattr(usual, key)}
    written = {key: as_written(key, value) for key, value in its.items()}
    return {**written, "slots": policy.slots_written, "window": list(policy.window)}
