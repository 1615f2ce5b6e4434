"""By which name the pages are asked for. A page of somebody else's, whose name leads here (DNS rebinding), is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


def host_of(header: str) -> str | None:
    """The name or address in the header Host, in lower case, without its port; None where it is neither."""
    found = _HOST.fullmatch(header.strip())
    if found is None:
        return None
    if found[1] is None:
        return found[2].lower().removesuffix(".") or None
    return found[1].lower() if _is_address(found[1]) else None


def is_ours(header: str, names: Sequence[str]) -> bool:
    """Whether the header Host is an IP address, a loopback name or one of `names`, which are in lower case."""
    host = host_of(header)
    if host is None:
        return False
    return _is_address(host) or host == "localhost" or host.endswith(".localhost") or host in names


def peer_of(address: str) -> str:
    """Whose turns a visitor takes: his address; of IPv6 his network, for each host has a whole one of addresses.

    All of this machine are one: every user of it may come from any of the sixteen million addresses of loopback.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return "loopback"
    if not isinstance(found, IPv6Address):
        return str(found)
    return f"{IPv6Address(int(found) >> 64 << 64)}/64"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
