"""Where tables are kept, and the page that shows one: `python -m bench.page` copies the newest whole one into it."""

from __future__ import annotations

import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PART = "-part"
"""At the end of the name of a table that is not whole."""

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGINS, ENDS = "<!-- measured: python -m bench.page -->\n", "<!-- the end of what was measured -->\n"


def newest_whole(results: Path) -> Path | None:
    return max((one for one in results.glob("*.md") if not one.stem.endswith(PART)), default=None)


def with_table(page: str, table: str) -> str:
    """The page with this table in place of the one that it has. Raises `ValueError` where it has no place for one."""
    before, _, rest = page.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not ends:
        raise ValueError("the page has no place for a table")
    return f"{before}{BEGINS}{table}{ENDS}{after}"


def main() -> None:
    if (newest := newest_whole(RESULTS)) is None:
        sys.exit(f"there is no whole table in {RESULTS}: run `make bench`")
    PAGE.write_text(with_table(PAGE.read_text(), newest.read_text()))


if __name__ == "__main__":
    main()
