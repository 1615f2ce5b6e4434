"""How fast the provider is asked, as it is reported."""

from __future__ import annotations

from collections.abc import Sequence

from snaprotd.core.words import Json, count
from snaprotd.provider.rate import RateInForce


def rate_report(rate: RateInForce) -> Json:
    is_lowered = round(rate.rate, 1) < rate.configured
    notes = [slower_words(rate)] if is_lowered else []
    notes += [held_back_words(rate.held_back)] if rate.held_back else []
    return {
        "rate": round(rate.rate, 3),
        "configured_rate": rate.configured,
        "refused_last_hour": rate.refused,
        "note": "; ".join(notes) or None,
    }


def slower_words(rate: RateInForce) -> str:
    """Why requests go out at a lower rate than is configured."""
    number = rate.refused - rate.refused_alone
    refused = f"{count(number, 'request')} in the last hour" if number else "requests"
    often = f"{round(rate.rate, 1):g} times a second instead of {rate.configured:g}"
    return f"asks {often}: the provider has refused {refused}"


def held_back_words(held_back: Sequence[str]) -> str:
    """What the provider refuses by itself."""
    more = f" and {len(held_back) - 1} more" if len(held_back) > 1 else ""
    return f"asks more and more seldom what the provider refuses while it answers others: {held_back[0]}{more}"
