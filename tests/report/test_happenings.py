"""What an end of a rotation means for whoever is told of it: the server's own failure, or one that others have too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from snaprotd.core.errors import Busy, CloudError, Full, HeldBack, NotSent, Permanent, Refused, Temporary, Unclear
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.provider import Doubtful
from snaprotd.report.happenings import of_entry

AT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
AWAY, REFUSED, DOUBT, MOVED = Temporary("503"), Refused("401"), Doubtful("an entry cannot be read"), Permanent("302")
OWN = ""


def cause_of(its: str, account_failure: CloudError | None) -> str:
    details = {"rotation": "r", "label": "web-01", "result": "failure", "step": "wait", "error": "it", "cause": its}
    entry = Entry(at=AT, kind=Happened.ROTATION, text="", server_id="12345", details=details)
    event = of_entry(entry, account_failure=account_failure)
    assert event is not None
    return event.cause


@pytest.mark.parametrize("account", [None, AWAY, REFUSED, DOUBT, MOVED], ids=lambda one: one and type(one).__name__)
@pytest.mark.parametrize("error", [None, Busy("locked"), HeldBack("429"), Full("of ten")], ids=lambda one: str(one))
def test_a_failure_for_a_reason_of_its_own_is_the_servers_whatever_else_goes_on(
    error: CloudError | None, account: CloudError | None
) -> None:
    assert cause_of(error.cause if error else "", account) == OWN


@pytest.mark.parametrize(
    ("error", "account", "expected"),
    [
        (AWAY, None, OWN),
        (AWAY, AWAY, "api"),
        (Unclear("the answer was lost"), AWAY, "api"),
        (NotSent("no connection"), AWAY, "api"),
        (AWAY, REFUSED, "token"),
        (AWAY, DOUBT, OWN),
        (AWAY, MOVED, OWN),
        (REFUSED, None, "token"),
        (REFUSED, AWAY, "token"),
        (REFUSED, DOUBT, "token"),
        (DOUBT, None, OWN),
        (DOUBT, DOUBT, "api"),
        (DOUBT, AWAY, OWN),
        (MOVED, None, OWN),
        (MOVED, MOVED, "api"),
        (MOVED, AWAY, OWN),
    ],
)
def test_a_failure_is_the_accounts_only_where_the_account_fails_for_the_same(
    error: CloudError, account: CloudError | None, expected: str
) -> None:
    assert cause_of(error.cause, account) == expected
