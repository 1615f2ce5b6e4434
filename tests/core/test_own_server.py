"""By what a server of the account is told to be the machine that snaprotd runs on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snaprotd.core.model import Machine, Server
from snaprotd.core.policy import stops_itself
from tests.support.nouns import a_server
from tests.support.policies import a_policy


def named(hostname: str, name: str = "front") -> Server:
    return replace(a_server(name=name), hostname=hostname)


def at(address: str) -> Server:
    return replace(a_server(name="front"), ip_address=address)


NAMES = [
    ("web-01", named("web-01"), True),
    ("web-01", named("web-01.example.com"), True),
    ("web-01.example.com", named("web-01"), True),
    ("web-01.example.com", named("web-01.example.com"), True),
    ("web-01.example.com", named("web-01.example.com."), True),
    ("WEB-01", named("Web-01.Example.com"), True),
    ("web-01", named("", name="web-01"), True),
    ("web-01.example.com", named("www.example.org", name="web-01"), True),
    ("web-01", named(" web-01 "), True),
    ("web-01.example.com", named("web-01.example.org"), False),
    ("web-01", named("web-011"), False),
    ("web", named("web-01"), False),
    ("example", named("web-01.example.com"), False),
    ("", named("", name=""), False),
    (".", named(".", name=""), False),
    ("localhost", named("localhost", name="localhost"), False),
    ("localhost", named("localhost.localdomain"), False),
    ("LOCALHOST.localdomain", named("localhost"), False),
    ("203.0.113.7", named("203.0.113.8"), False),
    ("203", named("203.0.113.7"), False),
    ("3f1c0a9b2d4e", named("web-01"), False),
]


@pytest.mark.parametrize(("ours", "server", "same"), NAMES)
def test_the_machine_is_the_server_that_has_its_host_name_with_the_domain_or_without(
    ours: str, server: Server, same: bool
) -> None:
    assert Machine(names=(ours,)).sign_in(server) == (f"host name {ours}" if same else "")


ADDRESSES = [
    ("203.0.113.7", "203.0.113.7", "203.0.113.7"),
    ("203.0.113.7", " 203.0.113.7\n", "203.0.113.7"),
    ("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.7"),
    ("2001:DB8:0::7", "2001:db8::7", "2001:db8::7"),
    ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
    ("172.17.0.2", "203.0.113.7", None),
    ("203.0.113.7", "203.0.113.70", None),
    ("203.0.113.7", "", None),
    ("203.0.113.7", "not an address", None),
    ("203.0.113.7", "203.0.113.7/24", None),
    ("", "", None),
    ("127.0.0.1", "127.0.0.1", None),
    ("127.0.1.1", "127.0.1.1", None),
    ("::1", "::1", None),
    ("::ffff:127.0.0.1", "127.0.0.1", None),
    ("0.0.0.0", "0.0.0.0", None),
    ("fe80::1%eth0", "fe80::1", None),
    ("169.254.0.1", "169.254.0.1", None),
]


@pytest.mark.parametrize(("ours", "theirs", "shown"), ADDRESSES)
def test_the_machine_is_the_server_that_has_one_of_its_addresses(ours: str, theirs: str, shown: str | None) -> None:
    machine = Machine(names=("3f1c0a9b2d4e",), addresses=("198.51.100.3", ours))
    assert machine.sign_in(at(theirs)) == (f"address {shown}" if shown else "")


UUID = "0b2f7f3e-7d2a-4f06-8b1d-0d6a3c3b6a11"
WEB_01 = Machine(names=("web-01",), addresses=("203.0.113.7",))


@pytest.mark.parametrize(
    ("own_server", "server", "sign"),
    [
        (None, a_server(12345, "web-01"), "host name web-01"),
        ("none", a_server(12345, "web-01"), ""),
        ("none", a_server("none", "web-01"), ""),
        ("12345", a_server(12345, "front"), "own_server names it"),
        ("12345", a_server("12345", "front"), "own_server names it"),
        ("12345", a_server(12346, "web-01"), ""),
        (UUID, a_server(UUID, "front"), "own_server names it"),
        (UUID, a_server(12345, "web-01"), ""),
    ],
)
def test_what_the_configuration_says_of_it_wins_over_names_and_addresses(
    own_server: str | None, server: Server, sign: str
) -> None:
    seen = replace(server, ip_address="203.0.113.7")
    assert replace(WEB_01, own_server=own_server).sign_in(seen) == sign


def test_of_several_servers_of_one_name_each_may_be_the_machine() -> None:
    machine = Machine(names=("web",))
    account = [a_server(1, "web"), a_server(2, "web"), a_server(3, "db"), replace(a_server(4, "x"), hostname="web.lan")]
    assert [one.id for one in account if machine.sign_in(one)] == ["1", "2", "4"]


def test_only_a_policy_that_stops_its_server_stops_itself() -> None:
    machine, server = Machine(names=("web-01",)), a_server(name="web-01")
    assert stops_itself(a_policy(stop_first=False), server, machine) == ""
    assert stops_itself(a_policy(stop_first=True), server, Machine()) == ""
    assert stops_itself(a_policy(stop_first=True), server, machine) == (
        "this looks like the machine that snaprotd runs on (host name web-01): it would stop itself; run it elsewhere, "
        "or set own_server: none"
    )
