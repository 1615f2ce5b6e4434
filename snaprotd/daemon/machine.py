"""What the machine that we run on shows of itself, without a question to anybody."""

from __future__ import annotations

import socket

from snaprotd.core.model import Machine

_ELSEWHERE = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses kept for documentation: the way to them is the default route, and nothing is sent on it."""
_DISCARD = 9


def this_machine(own_server: str | None) -> Machine:
    """The machine as it is at this moment; `own_server` is what the configuration says of it.

    Its own name is not looked up: that may ask a name server, and mostly answers with a loopback address.
    """
    return Machine(
        names=(socket.gethostname(),),
        addresses=tuple(filter(None, (_address_towards(*place) for place in _ELSEWHERE))),
        own_server=own_server,
    )


def _address_towards(family: socket.AddressFamily, address: str) -> str:
    """Our own address on the way there; empty where there is no way. To connect UDP is to choose a route, no more."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect((address, _DISCARD))
            return str(way.getsockname()[0])
    except OSError:
        return ""
