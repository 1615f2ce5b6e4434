"""docs/third-party.md: what is installed besides snaprotd, and under which licence. `make docs` writes it."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "third-party.md"

HEAD = """\
# Third-party software

What the wheel and the image install besides snaprotd, as `requirements.txt` pins it. Each package brings the text of
its licence, in its `dist-info` folder. `make sbom` writes the same as CycloneDX, with those texts, to
`dist/snaprotd.cdx.json`. The image also has what its base has, Debian and Python: see `/usr/share/doc/*/copyright` in
it.

| package | version | licence |
|---|---|---|
"""


def pinned() -> dict[str, str]:
    """The versions of what is installed for users, by name."""
    text = (ROOT / "requirements.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==(\S+)", text, re.MULTILINE))


def licence(package: str) -> str:
    """As the package declares it: an expression, a word, or the names of the trove classifiers."""
    declared = metadata(package).json
    words = declared.get("classifier", [])
    classified = [word.rpartition(" :: ")[2] for word in words if word.startswith("License ::")]
    for text in (declared.get("license_expression"), " or ".join(classified), declared.get("license")):
        if text and "\n" not in text:
            return str(text)
    raise AssertionError(f"{package} declares no licence: look, and write it here")


def page() -> str:
    return HEAD + "".join(f"| {name} | {version} | {licence(name)} |\n" for name, version in sorted(pinned().items()))


if __name__ == "__main__":
    PAGE.write_text(page())
