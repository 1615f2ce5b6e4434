"""A forecast as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from snaprotd.core.words import Json, zulu
from snaprotd.forecast.expect import Forecast
from snaprotd.forecast.figures import Extreme
from snaprotd.forecast.runs import Foreseen
from snaprotd.forecast.words import Named


def forecast_json(forecasts: Sequence[Named]) -> list[Json]:
    """For each forecast an object. Instants are in UTC, ages in seconds, null where there is none.

    `servers` names, `schedule`, `timezone`, `window`, `keep` (count by rule), `paused`, `start`, `end`, `limit`,
    `foreign`, `held`, `fail`, `seed`, `outages` (`begin`, `end`); `summary`: `taken`, `failed`, `missed`, `blocked`,
    `late`, `first_at`, `settled_at`, `held_least`, `held_most`, `newest_worst`, `reach_least`, `reach_most` (each `age`
    and `at`), `free_between`, `free_while_taking` (slots); `runs`: `slot`, `at`, `outcome` (taken, failed, missed or
    blocked), `snapshot` (its name), `deleted` (`name`, `reason`), `held` (names, newest first), `blocked` (why).
    """
    return [_object(names, forecast) for names, forecast in forecasts]


def _object(names: Sequence[str], forecast: Forecast) -> Json:
    policy, assumed = forecast.policy, forecast.assumed
    return {
        "servers": list(names),
        "schedule": list(policy.schedule.expressions),
        "timezone": policy.timezone,
        "window": list(policy.window),
        "keep": {rule: number for rule, number in vars(policy.keep).items() if number},
        "paused": policy.paused,
        "start": zulu(forecast.start),
        "end": zulu(forecast.end),
        "limit": forecast.limit,
        "foreign": assumed.foreign,
        "held": assumed.held,
        "fail": assumed.fail,
        "seed": assumed.seed,
        "outages": [{"begin": zulu(begin), "end": zulu(end)} for begin, end in forecast.outages],
        "summary": {key: _plain(value) for key, value in vars(forecast.summary).items()},
        "runs": [_run_row(run) for run in forecast.runs],
    }


def _plain(value: int | datetime | Extreme | None) -> Any:
    if isinstance(value, Extreme):
        return {"age": int(value.age.total_seconds()), "at": zulu(value.at)}
    return zulu(value) if isinstance(value, datetime) else value


def _run_row(run: Foreseen) -> Json:
    return {
        "slot": zulu(run.slot),
        "at": zulu(run.at),
        "outcome": run.fate,
        "snapshot": run.taken.name if run.taken else None,
        "deleted": [{"name": gone.snapshot.name, "reason": gone.reason} for gone in run.deleted],
        "held": [one.name for one in run.held],
        "blocked": run.blocked or None,
    }
