"""The documents say what is so."""

from __future__ import annotations

from tests.support.reference_page import PAGE, rendered


def test_the_reference_page_has_every_key_with_its_default_and_meaning() -> None:
    assert PAGE.read_text() == rendered(PAGE.read_text()), "run `make docs`"
