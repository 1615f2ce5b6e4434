"""Every way to get the file wrong, and the one sentence that answers it."""

from __future__ import annotations

from datetime import timedelta

import jsonschema  # type: ignore[import-untyped]
import pytest

from snaprotd.config.file import json_schema, parse
from snaprotd.config.mistakes import render_mistake
from snaprotd.config.text import yaml_nodes
from snaprotd.core.errors import ConfigError
from snaprotd.core.schedule import ScheduleError, check_expression, spread_delay

POLICY = (
    "schedule, timezone, window, spread, keep, adopt, when_full, stop_first, stop_timeout, on_stop_timeout, "
    "start_timeout, snapshot_timeout, missed, missed_within, paused, "
    "retry, hold_manual, ping, one_at_a_time"
)
SERVER = f"{POLICY}, id, match, name, policy"
TOP = (
    "api, state, state_password_file, listen, allowed_hosts, web_config, metrics, own_server, instance, limit, "
    "max_concurrent, poll_interval, drain_timeout, discover_interval, notify, heartbeat, defaults, policies, servers"
)
LISTEN = 'should be host:port, such as 127.0.0.1:9877 or "[::1]:9877", or unix:/path, or off'
INLINE = (
    "the API token does not belong in this file: put it alone into another one and name that with `api.token_file` or "
    "$SNAPROTD_TOKEN_FILE, or set $VPS_API_TOKEN"
)
OWN_SERVER = "should be a server's id (a whole number from 1 on, or text), or the word none"
RETRY = "should be a mapping such as {times: 2, after: 30m}; {times: 0} for none"
KEEP = "should be a whole number from 1 to 4 (`limit` less 1), or rules such as {last: 2, daily: 1}"


def top(text: str) -> str:
    """A file with `text` above one good server."""
    return f'{text}\nservers: [{{id: 1, schedule: "@daily"}}]\n'


def own(text: str) -> str:
    """A file with one server whose fourth line is `text`."""
    return f'servers:\n  - id: 1\n    schedule: "@daily"\n    {text}\n'


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    return [str(mistake).removeprefix("c.yaml:") for mistake in caught.value.mistakes]


SHAPE = [
    ("", "1:1: the file is empty: list at least one server under `servers`"),
    ("# x\n", "1:1: the file is empty: list at least one server under `servers`"),
    ("---\n", "2:1: the file is empty: list at least one server under `servers`"),
    ("null", "1:1: the file is empty: list at least one server under `servers`"),
    ("[]", "1:1: should be a mapping with `servers` in it, not a list"),
    ("5", "1:1: should be a mapping with `servers` in it, not `5`"),
    ("servers: []", "1:10: servers: no server: list at least one, as in `servers: [{id: 12345, policy: nightly}]`"),
    ("servers:", "1:9: servers: has no value: it should be a list"),
    ("servers: 5", "1:10: servers: should be a list, not `5`"),
    ("servers: {a: 1}", "1:10: servers: should be a list, not a mapping"),
    ("servers: [5]", "1:11: servers[0]: should be a mapping such as {id: 12345, policy: nightly}, not `5`"),
    ("servers: [{}]", '1:11: servers[0]: needs an `id`, such as 12345, or a `match`, such as "web-*"'),
    *(
        (top(f"own_server: {written}"), f"1:13: own_server: {OWN_SERVER}, not {shown}")
        for written, shown in {
            "true": "`true`",
            "0": "`0`",
            "1.5": "`1.5`",
            "[12345]": "a list",
        }.items()
    ),
    (
        top("metrics: {per_server: some}"),
        "1:23: metrics.per_server: should be one of `all` or `problems`, not `some`",
    ),
    (top("own_server: "), f"1:12: own_server: has no value: it {OWN_SERVER}"),
    (
        top("own_server: web.example.com"),
        "1:13: own_server: should be a server's id: 1 to 64 letters, digits, `-` and `_`, not `web.example.com`",
    ),
    (top("own_servr: none"), f"1:1: own_servr: unknown key, did you mean `own_server`? (allowed here: {TOP})"),
    (top("x: 1"), f"1:1: x: unknown key (allowed here: {TOP})"),
    (top("limits: 5"), f"1:1: limits: unknown key, did you mean `limit`? (allowed here: {TOP})"),
    (top("timeout: 5s"), f"1:1: timeout: unknown key here: `timeout` belongs in `api` (allowed here: {TOP})"),
    ("server: [{id: 1}]", f"1:1: server: unknown key, did you mean `servers`? (allowed here: {TOP})"),
    (
        "polices: {n: {}}\nservers: [{id: 1, policy: n}]",
        f"1:1: polices: unknown key, did you mean `policies`? (allowed here: {TOP})",
    ),
    (
        top("api: {token: vps_abc}"),
        f"1:7: api.token: {INLINE}",
    ),
    (top("api: []"), "1:6: api: should be a mapping of keys to values, not a list"),
    (top("api: {base_url: 5}"), "1:17: api.base_url: should be a URL such as https://admin.vps.org/api/v1, not `5`"),
    (top("api: {requests_per_second: 0}"), "1:28: api.requests_per_second: should be 0.01 or more, not `0`"),
    (top("api: {requests_per_second: .inf}"), "1:28: api.requests_per_second: should be a number, not `.inf`"),
    (
        top('api: {requests_per_second: "5"}'),
        '1:28: api.requests_per_second: should be a number, not `"5"`: leave out the quotes',
    ),
    (top("api: {requests_per_second: true}"), "1:28: api.requests_per_second: should be a number, not `true`"),
    (top("api: {timeout: 30}"), "1:16: api.timeout: a duration needs its unit: write 30s if seconds are meant"),
    (top("api: {token_file: }"), "1:19: api.token_file: has no value: it should be the path of a file"),
    (top('state: ""'), '1:8: state: should be the path of a file, or postgresql://HOST/DATABASE, not `""`'),
    (top("state: 5"), "1:8: state: should be the path of a file, or postgresql://HOST/DATABASE, not `5`"),
    (
        top("listen: 9877"),
        f"1:9: listen: {LISTEN}, not `9877`",
    ),
    (
        top("listen: false"),
        f"1:9: listen: {LISTEN}, not `false`",
    ),
    (top("instance: Main"), "1:11: instance: should be 1 to 32 lower-case letters, digits and `_`, not `Main`"),
    (top("limit: 1"), "1:8: limit: should be 2 or more, not `1`"),
    (top("limit: 101"), "1:8: limit: should be 100 or less, not `101`"),
    (top('limit: "5"'), '1:8: limit: should be a whole number, not `"5"`: leave out the quotes'),
    (top("limit: 0600"), "1:8: limit: should be a whole number, not `0600`"),
    (top("max_concurrent: 0"), "1:17: max_concurrent: should be 1 or more, not `0`"),
    (top("defaults: {keep: 0}"), f"1:18: defaults.keep: {KEEP}, not `0`"),
    (own("keep: 0"), f"4:11: servers[0].keep: {KEEP}, not `0`"),
    (own("keep:"), f"4:10: servers[0].keep: has no value: it {KEEP}"),
    (own('keep: ""'), f'4:11: servers[0].keep: {KEEP}, not `""`'),
    (own("keep: -1"), f"4:11: servers[0].keep: {KEEP}, not `-1`"),
    (own("keep: true"), f"4:11: servers[0].keep: {KEEP}, not `true`"),
    (own('keep: "4"'), f'4:11: servers[0].keep: {KEEP}, not `"4"`: leave out the quotes'),
    (own("keep: 0600"), f"4:11: servers[0].keep: {KEEP}, not `0600`"),
    (own("keep: {}"), "4:11: servers[0].keep: keeps nothing: at least one count must be 1 or more"),
    (own("keep: {last: -1}"), "4:18: servers[0].keep.last: should be 0 or more, not `-1`"),
    (
        own("keep: {lst: 3}"),
        (
            "4:12: servers[0].keep.lst: unknown key, did you mean `last`? "
            "(allowed here: last, hourly, daily, weekly, monthly, yearly)"
        ),
    ),
    (own("keep: {last: true}"), "4:18: servers[0].keep.last: should be a whole number, not `true`"),
    (own("keep: [4]"), f"4:11: servers[0].keep: {KEEP}, not a list"),
    (own("retry: 2"), f"4:12: servers[0].retry: {RETRY}, not `2`"),
    (own("retry: false"), f"4:12: servers[0].retry: {RETRY}, not `false`"),
    (own("retry:"), f"4:11: servers[0].retry: has no value: it {RETRY}"),
    (own("retry: {times: -1}"), "4:20: servers[0].retry.times: should be 0 or more, not `-1`"),
    (own("retry: {times: 11}"), "4:20: servers[0].retry.times: should be 10 or less, not `11`"),
    (own("retry: {times: true}"), "4:20: servers[0].retry.times: should be a whole number, not `true`"),
    (own("retry: {times: 1.5}"), "4:20: servers[0].retry.times: should be a whole number, not `1.5`"),
    (
        own("retry: {after: 30}"),
        "4:20: servers[0].retry.after: a duration needs its unit: write 30s if seconds are meant",
    ),
    (
        own("retry: {time: 2}"),
        "4:13: servers[0].retry.time: unknown key, did you mean `times`? (allowed here: times, after)",
    ),
    (own("retries: 2"), f"4:5: servers[0].retries: unknown key, did you mean `retry`? (allowed here: {SERVER})"),
    (own("keep_weakly: 4"), f"4:5: servers[0].keep_weakly: unknown key, did you mean `keep`? (allowed here: {SERVER})"),
    (own("zone: x"), f"4:5: servers[0].zone: unknown key, did you mean `timezone`? (allowed here: {SERVER})"),
    (own("stop_first: yes"), "4:17: servers[0].stop_first: should be true or false, not `yes`: write true"),
    (own("stop_first: 1"), "4:17: servers[0].stop_first: should be true or false, not `1`"),
    (
        own("when_full: replce"),
        (
            "4:16: servers[0].when_full: should be one of `replace`, `replace_last` or `refuse`, "
            "not `replce`: did you mean `replace`?"
        ),
    ),
    (
        own("when_full: 5"),
        "4:16: servers[0].when_full: should be one of `replace`, `replace_last` or `refuse`, not `5`",
    ),
    (own("missed: no"), "4:13: servers[0].missed: should be one of `run` or `skip`, not `no`"),
    (own("timezone: 5"), "4:15: servers[0].timezone: should be text, not `5`: put it in quotes"),
    (own("spread: 30"), "4:13: servers[0].spread: a duration needs its unit: write 30s if seconds are meant"),
    (own("spread: 22:30"), "4:13: servers[0].spread: should be a duration such as 90s, 15m, 6h or 1d, not `22:30`"),
    (own("spread: 1h30m"), "4:13: servers[0].spread: should be a duration such as 90s, 15m, 6h or 1d, not `1h30m`"),
    (own("spread: -5m"), "4:13: servers[0].spread: should be a duration such as 90s, 15m, 6h or 1d, not `-5m`"),
    (own('adopt: "x-*"'), '4:12: servers[0].adopt: should be a list, not `"x-*"`: write ["x-*"]'),
    (own("adopt: [5]"), "4:13: servers[0].adopt[0]: should be text, not `5`: put it in quotes"),
    (
        own('adopt: [""]'),
        '4:13: servers[0].adopt[0]: should be 1 to 200 printable characters, with no space at either end, not `""`',
    ),
    (own("name: 12"), "4:11: servers[0].name: should be text, not `12`: put it in quotes"),
    (own("name: 1.10"), "4:11: servers[0].name: should be text, not `1.10`: put it in quotes"),
    (
        own('name: ""'),
        '4:11: servers[0].name: should be 1 to 64 printable characters, with no space at either end, not `""`',
    ),
    (
        "servers: [{id: 1, schedule: }]",
        '1:29: servers[0].schedule: has no value: it should be crontab text such as "30 3 * * *", or a list of such',
    ),
    ("servers: [{id: 1, schedule: []}]", "1:29: servers[0].schedule: is an empty list: give it at least one value"),
    (
        "servers: [{id: 1, schedule: 5}]",
        '1:29: servers[0].schedule: should be crontab text such as "30 3 * * *", or a list of such, not `5`',
    ),
    (
        'servers: [{id: 1, shedule: "@daily"}]',
        f"1:19: servers[0].shedule: unknown key, did you mean `schedule`? (allowed here: {SERVER})",
    ),
    (
        'servers: [{id: 0, schedule: "@daily"}]',
        "1:16: servers[0].id: should be a server's id: a whole number from 1 on, or text, not `0`",
    ),
    (
        'servers: [{id: true, schedule: "@daily"}]',
        "1:16: servers[0].id: should be a server's id: a whole number from 1 on, or text, not `true`",
    ),
    (
        'servers: [{id: "a b", schedule: "@daily"}]',
        '1:16: servers[0].id: should be a server\'s id: 1 to 64 letters, digits, `-` and `_`, not `"a b"`',
    ),
    (
        'servers: [{id: 1.5, schedule: "@daily"}]',
        "1:16: servers[0].id: should be a server's id: a whole number from 1 on, or text, not `1.5`",
    ),
    (
        'servers: [{match: "", schedule: "@daily"}]',
        '1:19: servers[0].match: should be 1 to 200 printable characters, with no space at either end, not `""`',
    ),
    (
        'servers: [{match: x, id: 1, schedule: "@daily"}]',
        "1:11: servers[0]: has both `id` and `match`: make two entries of it",
    ),
    (top("policies: []"), "1:11: policies: should be a mapping of keys to values, not a list"),
    (top("policies: {a: 5}"), "1:15: policies.a: should be a mapping of keys to values, not `5`"),
    (
        top('policies: {"": {}}'),
        '1:12: policies[""]: should be 1 to 64 printable characters, with no space at either end, not a mapping',
    ),
    (top("tokn: vps_12345678abc"), f"1:1: tokn: unknown key (allowed here: {TOP})"),
    (top("api: {token_file: [a]}"), "1:19: api.token_file: should be the path of a file, not a list"),
    (
        top("drain_timeout: '1h'\ndiscover_interval: x"),
        "2:20: discover_interval: should be a duration such as 90s, 15m, 6h or 1d, not `x`",
    ),
    (top("policies: {'a b': {keep: 0}}"), f'1:26: policies["a b"].keep: {KEEP}, not `0`'),
    (top("defaults: &d {keep: 0}\npolicies: {a: *d}"), f"1:21: defaults.keep: {KEEP}, not `0`"),
    (own("spread: .inf"), "4:13: servers[0].spread: should be a duration such as 90s, 15m, 6h or 1d, not `.inf`"),
    (own("spread: 0.5"), "4:13: servers[0].spread: should be a duration such as 90s, 15m, 6h or 1d, not `0.5`"),
    (top("max_concurrent: 10001"), "1:17: max_concurrent: should be 10000 or less, not `10001`"),
    (top("api: {settle: 2}"), "1:15: api.settle: a duration needs its unit: write 2s if seconds are meant"),
    (top('instance: "a-b"'), '1:11: instance: should be 1 to 32 lower-case letters, digits and `_`, not `"a-b"`'),
    (top("defaults:"), "1:10: defaults: has no value: it should be a mapping of keys to values"),
    (
        top("defaults: {id: 5}"),
        f"1:12: defaults.id: unknown key here: `id` belongs in a server (allowed here: {POLICY})",
    ),
    (
        top("cron: x"),
        f"1:1: cron: unknown key here: `schedule` belongs in `defaults`, a policy or a server (allowed here: {TOP})",
    ),
    (own("retention: 4"), f"4:5: servers[0].retention: unknown key, did you mean `keep`? (allowed here: {SERVER})"),
    (
        own("api_key: vps_0123456789"),
        f"4:5: servers[0].api_key: {INLINE}",
    ),
    (
        "servers: [{match: a, name: b, schedule: '@daily'}]",
        "1:28: servers[0].name: not allowed with `match`: those servers go by their names in the account",
    ),
    (top("yes: 1"), f"1:1: yes: unknown key (allowed here: {TOP})"),
    (
        'servers: [{id: -1, schedule: "@daily"}]',
        "1:16: servers[0].id: should be a server's id: a whole number from 1 on, or text, not `-1`",
    ),
    (
        'servers: [{id: null, schedule: "@daily"}]',
        "1:16: servers[0].id: has no value: it should be a server's id: a whole number from 1 on, or text",
    ),
    (
        'servers: [{id: "", schedule: "@daily"}]',
        '1:16: servers[0].id: should be a server\'s id: 1 to 64 letters, digits, `-` and `_`, not `""`',
    ),
    (
        'servers: [{id: 1, schedule: ["@daily", 5]}]',
        "1:40: servers[0].schedule[1]: should be text, not `5`: put it in quotes",
    ),
    (top("\ufeffx: 1"), f"1:1: x: unknown key (allowed here: {TOP})"),
]

WHOLE = [
    (own("retry: {after: 0s}"), "4:20: servers[0].retry.after: should be from 1s to 7d, not `0s`"),
    *(
        (top(f"own_server: {written}"), f"1:13: own_server: {OWN_SERVER}, not `{written}`")
        for written in ("None", "off", "yes", "localhost")
    ),
    (
        top('api: {base_url: "http://example.com"}'),
        '1:17: api.base_url: should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost), not `"http://example.com"`',
    ),
    (
        top('api: {base_url: "https://u:p@example.com"}'),
        '1:17: api.base_url: should hold no user name or password: the token goes with each request, not `"https://***@example.com"`',
    ),
    (
        top('api: {base_url: "https://e.com/?a=1"}'),
        '1:17: api.base_url: should end with its path: no `?` and no `#`, not `"https://e.com/?a=1"`',
    ),
    (
        top('api: {base_url: "ftp://e.com"}'),
        '1:17: api.base_url: should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost), not `"ftp://e.com"`',
    ),
    (top("api: {requests_per_second: .nan}"), "1:28: api.requests_per_second: should be a number, not `.nan`"),
    (top("api: {timeout: 0s}"), "1:16: api.timeout: should be from 1ms to 10m, not `0s`"),
    *(
        (
            top(f'state: "postgresql://u:{password}@h/x"'),
            "1:8: state: in user, password and parameters write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #",
        )
        for password in ("secret@pw", "secret/pw", "secret?pw", "secret?p=w", "secret#pw")
    ),
    (
        top("state: host=h password=secretpw"),
        "1:8: state: write it as a URL: postgresql://HOST/DATABASE, with `state_password_file`",
    ),
    (
        top("state: mysql://u:secretpw@h/x"),
        "1:8: state: should be the path of a file, or postgresql://HOST/DATABASE, not `mysql://**********@h/x`",
    ),
    (
        top('listen: ":9877"'),
        f'1:9: listen: {LISTEN}, not `":9877"`',
    ),
    (
        top('listen: "127.0.0.1:99999"'),
        f'1:9: listen: {LISTEN}, not `"127.0.0.1:99999"`',
    ),
    (top("limit: 5.0"), "1:8: limit: should be a whole number, not `5.0`"),
    (top("limit: 1e1"), "1:8: limit: should be a whole number, not `1e1`"),
    (top("poll_interval: 50ms"), "1:16: poll_interval: should be from 100ms to 1h, not `50ms`"),
    (own("keep: 5"), f"4:11: servers[0].keep: {KEEP}, not `5`: one slot stays free"),
    (own("keep: 4.0"), f"4:11: servers[0].keep: {KEEP}, not `4.0`"),
    (own("keep: {last: 0}"), "4:11: servers[0].keep: keeps nothing: at least one count must be 1 or more"),
    (
        own("keep: {last: 3, daily: 2}"),
        (
            "4:11: servers[0].keep: the counts add up to 5, "
            "but 4 at most may be kept (`limit` less 1): one slot stays free"
        ),
    ),
    (
        own("timezone: Europe/Berln"),
        "4:15: servers[0].timezone: `Europe/Berln` is not a known time zone, did you mean `Europe/Berlin`?",
    ),
    (own("missed_within: 0s"), "4:20: servers[0].missed_within: should be from 1ms to 366d, not `0s`"),
    (
        own("hold_manual: forever"),
        "4:18: servers[0].hold_manual: should be a duration such as 90s, 15m, 6h or 1d, not `forever`",
    ),
    (own("name: no\n    match: x"), "2:5: servers[0]: has both `id` and `match`: make two entries of it"),
    (own("policy: nightly"), "4:13: servers[0].policy: unknown policy `nightly`: there are no `policies` in this file"),
    ("servers: [{id: 1}]", "1:11: servers[0].schedule: missing: give it here, in the server's policy or in `defaults`"),
    (
        'servers: [{id: 1, schedule: "@daily"}, {id: "1", schedule: "@daily"}]',
        "1:45: servers[1].id: the same server as servers[0]: `1`",
    ),
    (
        'servers: [{id: 1, name: a, schedule: "@daily"}, {id: 2, name: a, schedule: "@daily"}]',
        "1:63: servers[1].name: the same name as servers[0]: `a`",
    ),
    (
        'servers: [{id: 1, name: "2", schedule: "@daily"}, {id: 2, schedule: "@daily"}]',
        "1:25: servers[0].name: `2` is the id of servers[1]: take another name",
    ),
    (
        'servers: [{match: a, schedule: "@daily"}, {match: a, schedule: "@daily"}]',
        "1:51: servers[1].match: the same pattern as servers[0]: `a`",
    ),
    (
        "policies: {nightly: {}}\nservers: [{id: 1, policy: nihgtly}]",
        "2:27: servers[0].policy: unknown policy `nihgtly`, did you mean `nightly`? (there are: nightly)",
    ),
    (top("limit: 3"), "1:8: limit: leaves no room for the default `keep` of 4: set `keep` in `defaults`, 2 at most"),
    (own("snapshot_timeout: 8d"), "4:23: servers[0].snapshot_timeout: should be from 1ms to 7d, not `8d`"),
    (
        top("listen: Off"),
        f"1:9: listen: {LISTEN}, not `Off`",
    ),
    (
        top('listen: "[::g]:1"'),
        f'1:9: listen: {LISTEN}, not `"[::g]:1"`',
    ),
    (
        top("state: postgres://h/x"),
        "1:8: state: should be the path of a file, or postgresql://HOST/DATABASE, not `postgres://h/x`",
    ),
    (
        top('api: {base_url: "http://localhost.example.com"}'),
        '1:17: api.base_url: should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost), not `"http://localhost.example.com"`',
    ),
    (
        top('api: {base_url: "https://"}'),
        '1:17: api.base_url: should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost), not `"https://"`',
    ),
    (
        top('api: {base_url: "https://exa mple.com"}'),
        '1:17: api.base_url: should be a URL without spaces or special characters, not `"https://exa mple.com"`',
    ),
    (
        top('api: {base_url: "https://e.com:99999"}'),
        '1:17: api.base_url: should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost), not `"https://e.com:99999"`',
    ),
    (
        'limit: 3\nservers: [{id: 1, schedule: "@daily", keep: 3}]\n',
        (
            "2:45: servers[0].keep: should be a whole number from 1 to 2 (`limit` less 1), "
            "or rules such as {last: 2, daily: 1}, not `3`: one slot stays free"
        ),
    ),
    (own("window: 5"), '4:13: servers[0].window: should be a window such as "01:00-06:00", or a list of such, not `5`'),
    (own("window: []"), "4:13: servers[0].window: is an empty list: give it at least one value"),
    (own("window: [5]"), "4:14: servers[0].window[0]: should be text, not `5`: put it in quotes"),
    (
        'servers: [{id: 1, schedule: "@daily", name: " a"}]',
        '1:45: servers[0].name: should be 1 to 64 printable characters, with no space at either end, not `" a"`',
    ),
    (
        own("window: 01:00"),
        (
            '4:13: servers[0].window: `01:00` is no window: write from when to when, as in "01:00-06:00" or '
            '"sat-sun 00:00-24:00"'
        ),
    ),
    (
        own("window: [00:00-06:00, sum 06:00-07:00]"),
        "4:27: servers[0].window[1]: `sum` is no day of the week: did you mean `sun`?",
    ),
    (
        own("window: 01:00-06:00"),
        "4:13: servers[0].window: no slot of the schedule `@daily` lies in it: nothing would ever run",
    ),
    (
        'defaults: {window: "mon 01:00-06:00"}\npolicies: {n: {schedule: "0 3 * * 2"}}\nservers: [{id: 1, policy: n}]',
        "1:20: defaults.window: no slot of the schedule `0 3 * * 2` lies in it: nothing would ever run",
    ),
    (
        'servers: [{id: 1, schedule: "@daily", spread: 1d, window: "00:00-00:01"}]\n',
        (
            "1:16: servers[0].id: by its share of `spread` this server begins 10 h after each slot, outside its "
            "window: it would never run"
        ),
    ),
]

SYNTAX = [
    (top("listen: [::1]:9877"), "1:10: expected a value: put text with `:` in quotes"),
    (own("keep: 4\n    keep: 3"), "5:5: servers[0].keep: repeated key: it stands in line 4 already"),
    (
        own("<<: {keep: 3}"),
        "4:5: servers[0].<<: merge keys are not supported: put what is shared into `defaults` or a policy",
    ),
    (own("1: x"), "4:5: servers[0].1: a key should be a plain word: put it in quotes if it is meant"),
    (own("? [a]\n    : x"), "4:7: servers[0].?: a key should be a plain word"),
    (own("keep: !!int 4"), "4:11: servers[0].keep: tags such as `!!int` are not supported: write the value alone"),
    (
        own("keep: *k"),
        '4:11: servers[0].keep: no anchor `&k` before this: put text that begins with `*` in quotes, as in "*-web"',
    ),
    (own("\tkeep: 4"), "4:5: a tab cannot indent: use spaces"),
    (
        own('paused: "\\x07"'),
        "4:13: servers[0].paused: control characters are not allowed, not even written as `\\x..`",
    ),
    (own("name: a\x07b"), "4:12: the invisible character U+0007 is not allowed here: delete it"),
    ("servers:\n- id: 1\n  schedule: */5 * * * *", "3:13: text that begins with `*` must be in quotes"),
    ("servers:\n- id: 1\n  schedule: @daily\n", "3:13: text that begins with `@` must be in quotes"),
    (
        'servers: [{id: 12345678901234567890, schedule: "@daily"}]',
        "1:16: servers[0].id: a number of more than 18 digits: put it in quotes if it is a name",
    ),
    (
        top('servers: [{id: 1, schedule: "@daily"}]\n---'),
        "2:1: a second document begins here: the file should hold one",
    ),
    ("servers: " + "[" * 100, "1:42: nested more than 32 deep"),
    ("a: b: c", "1:5: no `:` can stand here: put text that contains `: ` in quotes, or check the indentation"),
    ("a: [1", "2:1: expected `,` or `]`: the list begins in line 1"),
    ('a: "x', "1:4: this quote is never closed"),
    ("a: 1\n b: 2", "2:3: no `:` can stand here: put text that contains `: ` in quotes, or check the indentation"),
    (
        "servers:\n- id: 1\n name: x",
        "3:2: expected a key: check the indentation and the quotes (the mapping begins in line 1)",
    ),
    ('a: "\\q"', "1:5: no such escape: write a backslash as `\\\\`, or use single quotes"),
    ("a: `x`", "1:4: text that begins with ``` must be in quotes"),
    (top('"a\\tb": 1'), '1:1: ["a b"]: a key should be a plain word, without control characters'),
    (top("%YAML 3.0\n---"), "1:1: not YAML: found incompatible YAML document"),
    (
        own("missed: !!str skip"),
        "4:13: servers[0].missed: tags such as `!!str` are not supported: write the value alone",
    ),
    (top("policies: {n: &n {keep: 4}, n: *n}"), "1:29: policies.n: repeated key: it stands in line 1 already"),
    (top("null: 1"), "1:1: null: a key should be a plain word: put it in quotes if it is meant"),
    ("a: 1\n...\nfoo", "3:1: nothing more is expected here: check the indentation and the brackets"),
    ("a: &x 1\n b: 2", "2:3: no `:` can stand here: put text that contains `: ` in quotes, or check the indentation"),
    ("a: |x\n  b", "1:5: expected the end of the line: put text that begins with `|` or `>` in quotes"),
    (top("# \u2028"), "1:3: the invisible character U+2028 is not allowed here: delete it"),
]


@pytest.mark.parametrize(("text", "message"), SHAPE + WHOLE + SYNTAX)
def test_one_mistake_is_answered_by_one_sentence(text: str, message: str) -> None:
    assert mistakes(text) == [message]


@pytest.mark.parametrize(("text", "message"), SHAPE)
def test_an_editor_sees_a_mistake_of_shape_too(text: str, message: str) -> None:
    value = yaml_nodes.read(text).value()
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(value), message


EXPRESSIONS = ["", "* * * *", "61 * * * *", "0 0 31 2 *", "@never", "@reboot", "x * * * *"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_schedule_that_cannot_be_is_refused_where_it_stands(expression: str) -> None:
    with pytest.raises(ScheduleError) as refusal:
        check_expression(expression)
    text = f'servers: [{{id: 1, schedule: ["@daily", "{expression}"]}}]'
    assert mistakes(text) == [f"1:40: servers[0].schedule[1]: {refusal.value}"]


def test_a_bad_schedule_of_a_policy_is_reported_once_however_many_use_it() -> None:
    servers = "".join(f"  - {{id: {number}, policy: p, timezone: {zone}}}\n" for number, zone in enumerate(ZONES, 1))
    (mistake,) = mistakes(f'policies: {{p: {{schedule: "0 0 31 2 *"}}}}\nservers:\n{servers}')
    assert mistake == "1:26: policies.p.schedule: `0 0 31 2 *` never fires"


ZONES = ("UTC", "Europe/Berlin", "Asia/Tokyo")


def test_a_bad_schedule_of_a_policy_that_nobody_uses_is_reported() -> None:
    assert mistakes(top('policies: {p: {schedule: "0 0 31 2 *"}}')) == [
        "1:26: policies.p.schedule: `0 0 31 2 *` never fires"
    ]


def test_all_mistakes_are_shown_at_once_in_the_order_of_the_file() -> None:
    text = """\
limit: many
policies:
  nightly: {schedule: "30 3 * *", keep: 0}
  nightly: {}
servers:
  - {id: 1, policy: nigthly}
  - {id: "1", policy: nightly, <<: {}}
  - {id: 3, schedule: "@daily", keep: {last: -1, daily: -1}, paused: on}
  - !x {id: 4}
  - 5
  - {id: 6, shedule: "@daily"}
  - {match: "*"}
"""
    assert [mistake.partition(" ")[0] + mistake.split(": ")[1] for mistake in mistakes(text)] == [
        "1:8:limit",
        "3:23:policies.nightly.schedule",
        "3:41:policies.nightly.keep",
        "4:3:policies.nightly",
        "6:21:servers[0].policy",
        "7:10:servers[1].id",
        "7:32:servers[1].<<",
        "8:46:servers[2].keep.last",
        "8:57:servers[2].keep.daily",
        "8:70:servers[2].paused",
        "9:5:servers[3]",
        "10:5:servers[4]",
        "11:13:servers[5].shedule",
        "12:5:servers[6].schedule",
    ]


def test_each_server_without_a_schedule_is_named() -> None:
    assert [mistake[:26] for mistake in mistakes("servers: [{id: 1}, {id: 2}]")] == [
        "1:11: servers[0].schedule:",
        "1:20: servers[1].schedule:",
    ]


def test_each_server_is_judged_by_its_own_share_of_the_spread_of_the_policy_that_it_shares() -> None:
    servers = "".join(f"  - {{id: {number}, policy: n}}\n" for number in range(1, 21))
    policy = 'policies: {n: {schedule: "@daily", spread: 1d, window: "00:00-12:00"}}\n'
    late = [one for one in range(1, 21) if spread_delay(str(one), timedelta(days=1)) >= timedelta(hours=12)]
    assert 1 < len(late) < 20
    told = mistakes(f"{policy}servers:\n{servers}")
    assert [one.split(": ")[1] for one in told] == [f"servers[{one - 1}].id" for one in late]


def test_a_value_that_was_refused_is_not_called_missing_too() -> None:
    assert len(mistakes("defaults: {schedule: [5]}\nservers: [{id: 1}]")) == 1


def test_a_lower_limit_asks_for_keep_only_where_a_server_leaves_it_out() -> None:
    parse('limit: 2\ndefaults: {keep: 1}\nservers: [{id: 1, schedule: "@daily"}]', "c.yaml", {})


def test_a_higher_limit_lets_more_be_kept() -> None:
    config = parse('limit: 8\nservers: [{id: 1, schedule: "@daily", keep: 7}]', "c.yaml", {})
    assert config.entries[0].policy.keep.last == 7


# --- Hostile text ------------------------------------------------------------------------------------------------


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{new}: &{new} [{','.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    assert mistakes("\n".join(lines)) == ["6:8: aliases add more than 100,000 values: write them out"]


def test_an_alias_inside_what_it_names_is_refused() -> None:
    assert any("no anchor `&k` before this" in mistake for mistake in mistakes(top("policies: &k {a: *k}")))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_nesting_that_would_exhaust_the_stack_is_refused(opening: str) -> None:
    assert "nested more than 32 deep" in mistakes(opening * 100_000)[0]


def test_a_file_of_too_many_values_is_refused() -> None:
    assert "more than 400,000 values" in mistakes("servers: [" + "a," * 400_001 + "]")[0]


# --- Secrets -----------------------------------------------------------------------------------------------------

SECRETS = [
    top("api: {token: hush-hush}"),
    top("token: 'hush-hush'"),
    top("api: {token: [hush-hush]}"),
    top("api: {base_url: 'https://me:hush-hush@e.com'}"),
    top("state: postgres://me:hush-hush@db/x"),
    top("api: {token_file: {vps_hush-hush: 1}}"),
    top("api: {token: hush-hush, timeout: 5}"),
    top("instance: vps_hush-hush"),
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_shown_neither_in_a_message_nor_in_its_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    shown = [render_mistake(mistake, caught.value.text) for mistake in caught.value.mistakes]
    assert "hush" not in "\n".join([str(caught.value), repr(caught.value), *shown])


# --- Showing -----------------------------------------------------------------------------------------------------


def rendered(text: str, *, colour: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    return render_mistake(caught.value.mistakes[0], caught.value.text, colour=colour)


def test_the_line_is_shown_with_a_caret_under_the_place() -> None:
    assert rendered(own("keep: 0")).splitlines()[1:] == ["    4 |     keep: 0", "      |           ^"]


def test_a_long_line_is_shown_around_the_place() -> None:
    text = 'servers: [{id: 1, adopt: ["' + "x" * 150 + '"], schedule: "@daily", keep: 0}]'
    _, line, caret = rendered(text).splitlines()
    assert line[caret.index("^")] == "0"
    assert len(line) < 120


def test_the_line_obeys_no_control_character() -> None:
    assert "\x1b" not in rendered(own("name: \x1b[2J"))


def test_colour_is_only_given_when_asked_for() -> None:
    assert "\x1b[1;31m" in rendered(own("keep: 0"), colour=True)
    assert "\x1b" not in rendered(own("keep: 0"))
