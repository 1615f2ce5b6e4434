"""What is made of the provider's answers: JSON to nouns, and what is not taken for certain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core.model import SnapshotState
from snaprotd.provider.vps_org import answers
from snaprotd.provider.vps_org.body import UnreadableError, read_json


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "server": {"id": 12345}, "name": "s1", "status": "completed"} | changes


@pytest.mark.parametrize(
    ("word", "active", "stopped", "untouchable"),
    [
        ("active", True, False, False),
        ("stopped", False, True, False),
        ("restoring", False, False, True),
        ("suspended", False, False, True),
        ("stopping", False, False, False),
        ("Active", False, False, False),
    ],
)
def test_the_words_for_a_server_are_understood_here(word: str, active: bool, stopped: bool, untouchable: bool) -> None:
    server = answers.read_server({"id": 7, "status": word})
    assert (server.is_active, server.is_stopped, server.is_untouchable) == (active, stopped, untouchable)
    assert server.status == word


@pytest.mark.parametrize(
    ("shown", "hostname", "address"),
    [
        ({"hostname": "web-01.example.com", "ip_address": "203.0.113.7"}, "web-01.example.com", "203.0.113.7"),
        ({"hostname": None, "ip_address": None}, "", ""),
        ({"hostname": 5, "ip_address": ["203.0.113.7"]}, "", ""),
        ({}, "", ""),
    ],
)
def test_a_servers_host_name_and_address_are_read_where_there_are_any(
    shown: dict[str, Any], hostname: str, address: str
) -> None:
    server = answers.read_server({"id": 7, "name": "web", **shown})
    assert (server.hostname, server.ip_address) == (hostname, address)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("completed", SnapshotState.COMPLETED),
        ("in_progress", SnapshotState.IN_PROGRESS),
        ("failed", SnapshotState.FAILED),
        ("error", SnapshotState.UNKNOWN),
        ("pending", SnapshotState.IN_PROGRESS),
        ("queued", SnapshotState.IN_PROGRESS),
        ("creating", SnapshotState.IN_PROGRESS),
        ("COMPLETED", SnapshotState.UNKNOWN),
    ],
)
def test_the_words_for_a_snapshot_are_understood_here(word: str, state: SnapshotState) -> None:
    read = answers.read_snapshot(entry(status=word))
    assert (read.state, read.status) == (state, word)


@pytest.mark.parametrize(
    ("shown", "permissions"),
    [
        (["a", "b"], ("a", "b")),
        ("a, b", ("a", "b")),
        ("", ()),
        ({"a": True, "b": False, "c": {"x": True}}, ("a", "c:x")),
        (None, None),
        (7, None),
        ([1], None),
    ],
)
def test_permissions_are_read_in_any_likely_shape(shown: object, permissions: object) -> None:
    assert answers.read_token_owner({"token": {"permissions": shown}}).permissions == permissions


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2025-01-15T18:30:00Z", datetime(2025, 1, 15, 18, 30, tzinfo=UTC)),
        ("2025-01-15T18:30:00+02:00", datetime(2025, 1, 15, 16, 30, tzinfo=UTC)),
        ("2025-01-15T18:30:00.123456789Z", datetime(2025, 1, 15, 18, 30, 0, 123456, tzinfo=UTC)),
        ("2025-01-15 18:30:00", None),
        ("2025-01-15", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
        (1736965800, None),
    ],
)
def test_only_a_time_with_its_zone_is_an_instant(written: object, instant: datetime | None) -> None:
    assert answers.read_instant(written) == instant


@pytest.mark.parametrize("size", [None, "5120", True, -1, 5.5])
def test_a_size_that_is_no_number_of_megabytes_is_unknown(size: object) -> None:
    assert answers.read_snapshot(entry(size_mb=size)).size_mb is None


@pytest.mark.parametrize("status", [None, 3, "brand_new"])
def test_a_snapshot_of_unknown_status_is_kept_as_such(status: object) -> None:
    assert answers.read_snapshot(entry(status=status)).state is SnapshotState.UNKNOWN


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "uuid", "server", "name", "x"]), inner),
    )
)
def test_rubbish_is_read_or_refused_but_never_crashes(rubbish: Any) -> None:
    for read in (answers.read_snapshot, answers.read_server, answers.read_page, answers.read_token_owner):
        try:
            read(rubbish)
        except UnreadableError:
            continue
    answers.error_text(json.dumps(rubbish).encode())


@given(st.text())
def test_any_retry_after_is_read_or_ignored(text: str) -> None:
    seconds = answers.retry_after(text, datetime(2025, 1, 16, tzinfo=UTC))
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("field", ["id", "size_mb"])
def test_a_number_of_five_thousand_digits_leaves_the_rest_of_the_answer_readable(field: str) -> None:
    body = '[{"%s": %s, "name": "a"}, {"name": "b"}]' % (field, "9" * 5000)  # noqa: UP031 - braces
    assert read_json(body.encode()) == [{field: None, "name": "a"}, {"name": "b"}]
