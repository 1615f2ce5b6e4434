"""The runbook's table of what the page says, made from the table of problems."""

from __future__ import annotations

import re

from snaprotd.report.kinds import ANY, KINDS, Kind


def problems_table() -> str:
    """Every kind of problem, the worse ones first, as Markdown."""
    parts = []
    for severity, title in (("alarm", "somebody must act"), ("attention", "somebody should look")):
        rows = [_row(kind) for kind in KINDS.values() if kind.severity == severity]
        parts += [f"| the page says: {title} | what to do | more |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _row(kind: Kind) -> str:
    do = kind.do.replace("{server}", "SERVER").format_map(ANY)
    more = ", ".join(kind.alerts) or f"no alert: {kind.unwatched}"
    return f"| {_with_italics(kind.says)} | {do} | {_with_links(more)} |"


def _with_links(text: str) -> str:
    return re.sub(r"Snaprotd\w+", lambda found: f"[{found[0]}](#{found[0].lower()})", text)


def _with_italics(says: str) -> str:
    """Facts by their names: *error*, *who holds the slots*. One that is there at times is left out."""
    said = says.replace("{more}", "").replace("{until_it_runs}", "").replace("{and_this_one}", "")
    return re.sub(r"\{(\w+)\}", lambda found: f"*{found[1].replace('_', ' ')}*", said)
