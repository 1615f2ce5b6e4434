"""The walls between the rooms hold, and ARCHITECTURE.md's table says what they are."""

from __future__ import annotations

import ast
import re
import tomllib
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter import configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[2]
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
LAYERS, *FORBIDDEN = CONTRACTS
ROOMS = [contract["source_modules"][0] for contract in FORBIDDEN]
FLOORS = [[f"snaprotd.{room.strip()}" for room in floor.split("|")] for floor in LAYERS["layers"]]
PLACES = {room: height for height, floor in enumerate(FLOORS) for room in floor}


configuration.configure()


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("snaprotd", include_external_packages=True, cache_dir=None)


def is_kept(contract: dict[str, Any], importer: str = "", imported: str = "") -> bool:
    """Whether a contract holds, or would still hold if one module imported another."""
    tried = deepcopy(graph())
    if imported and imported not in tried.modules:
        tried.add_module(imported, is_squashed=True)
    if imported:
        tried.add_import(importer=importer, imported=imported, line_number=1, line_contents="")
    options = {key: str(value) if value is True else value for key, value in contract.items()}
    kind = LayersContract if contract["type"] == "layers" else ForbiddenContract
    session = {"root_packages": ["snaprotd"], "include_external_packages": True}
    return kind(name=contract["name"], session_options=session, contract_options=options).check(tried, False).kept


def a_file_of(room: str) -> str:
    return min(graph().find_descendants(room), default=room)


@pytest.mark.parametrize("contract", FORBIDDEN, ids=[contract["name"].partition(":")[0] for contract in FORBIDDEN])
def test_what_a_room_must_never_know_cannot_be_imported(contract: dict[str, Any]) -> None:
    importer = a_file_of(contract["source_modules"][0])
    assert is_kept(contract)
    assert not [name for name in contract["forbidden_modules"] if is_kept(contract, importer, name)]


@pytest.mark.parametrize("room", PLACES)
def test_no_room_can_import_one_that_is_not_below_it(room: str) -> None:
    assert is_kept(LAYERS)
    others = [other for other in PLACES if other != room and PLACES[other] <= PLACES[room]]
    assert not [other for other in others if is_kept(LAYERS, a_file_of(room), a_file_of(other))]


def test_every_file_is_in_a_room() -> None:
    assert set(graph().find_children("snaprotd")) == PLACES.keys()
    assert LAYERS["exhaustive"]


def test_every_room_has_a_contract_of_its_own() -> None:
    assert sorted(ROOMS) == sorted(PLACES.keys() - {"snaprotd.__main__"})


def test_the_table_of_rooms_is_the_contracts() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", text, re.MULTILINE)
    assert dict(rows) == dict(contract["name"].split(": ") for contract in FORBIDDEN)
    assert [f"snaprotd.{room}" for room, _ in rows] == [room for room in PLACES if room != "snaprotd.__main__"]


@pytest.mark.parametrize("path", sorted((ROOT / "snaprotd" / "core").glob("*.py")), ids=lambda path: path.name)
def test_what_decides_reads_no_clock_and_opens_nothing(path: Path) -> None:
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in called}
    assert not names & {"now", "today", "utcnow", "monotonic", "time_ns", "open", "read_text", "write_text", "print"}
