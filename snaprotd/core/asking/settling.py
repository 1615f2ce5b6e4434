"""How late a request may still be carried out whose answer was lost, or whose sender has lost its lease."""

from __future__ import annotations

LEASE_BEYOND_REQUEST = 30.0
"""Seconds by which a lease outlives the longest request: it is renewed several times meanwhile."""

LEAST_MARGIN = LEASE_BEYOND_REQUEST
"""Seconds. Who has lost a lease may have sent something at any time until there was too little left of it."""


def lease_for(request_timeout: float) -> float:
    """Seconds for which a process may take a rotation for its own, where a request may take so many."""
    return request_timeout + LEASE_BEYOND_REQUEST


def settled_after(settle: float) -> float:
    """Seconds after which a request is believed to have come to nothing that may be carried out `settle` seconds late.

    A quarter longer, for a snapshot that was made at the very end of it still needs a moment to be listed. And never
    less than `LEAST_MARGIN`, however short `settle` is.
    """
    return settle + max(settle / 4, LEAST_MARGIN)
