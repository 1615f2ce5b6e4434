"""What we install from others: known vulnerabilities fail the build, and what was not checked is not called well."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.notices import PAGE, ROOT, page, pinned

SOUND: dict[str, Any] = {"name": "sound", "version": "1.0", "vulns": []}
HURT = {"name": "hurt", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def audit(folder: Path, **reports: Any) -> tuple[int, str]:
    """What the step of CI says, where the databases answer so. One that is not named cannot be reached."""
    answers = {service: json.dumps({"dependencies": report}) for service, report in reports.items()}
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"print({answers!r}.get(sys.argv[sys.argv.index('--vulnerability-service') + 1], 'no connection'))\n"
    )
    program.chmod(0o755)
    command: list[str | Path] = [sys.executable, ROOT / ".ci" / "audit", program, "requirements.txt"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert not ended.stderr
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("service", ["pypi", "osv"])
def test_a_known_vulnerability_fails_the_build_and_is_named(tmp_path: Path, service: str) -> None:
    code, said = audit(tmp_path, **{service: [SOUND, HURT, UNKNOWN]})
    assert code == 1
    assert "hurt 2.0: CVE-1, mended in 2.1" in said


@pytest.mark.parametrize("service", ["pypi", "osv"])
def test_where_every_package_was_looked_up_it_is_said_by_whom(tmp_path: Path, service: str) -> None:
    said = f"no known vulnerability in 1 packages of requirements.txt ({service})\n"
    assert audit(tmp_path, **{service: [SOUND]}) == (0, said)


@pytest.mark.parametrize(
    ("reports", "what"),
    [({}, "any package"), ({"pypi": []}, "any package"), ({"pypi": [SOUND, UNKNOWN]}, "unknown")],
)
def test_what_no_database_has_answered_for_is_not_called_checked(tmp_path: Path, reports: Any, what: str) -> None:
    assert audit(tmp_path, **reports) == (
        0,
        f"NOT CHECKED: vulnerabilities of requirements.txt. No database answers from here for {what}\n",
    )


def test_the_notices_name_every_package_that_is_installed_for_users() -> None:
    assert len(pinned()) > 20
    assert PAGE.read_text() == page(), "run `make docs`"


def test_no_older_version_is_allowed_than_what_was_tested() -> None:
    """Who installs the package without `requirements.txt` gets nothing that no test has seen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = [re.split(r"\[[a-z]+\]|(?=[>=<])", one.replace(" ", ""), maxsplit=1) for one in project["dependencies"]]
    floors = {name: re.findall(r">=([0-9.]+)", bounds) for name, bounds in words}
    assert floors == {name: [pinned()[name]] for name in floors}


def test_the_debian_packages_of_an_image_are_listed_by_their_package_urls() -> None:
    """https://github.com/package-url/purl-spec: what is no letter in a name or a version is escaped."""
    command: list[str | Path] = [sys.executable, ROOT / ".ci" / "debian-sbom"]
    listed = "libc6 2.36-9+deb12u13 amd64\nlibstdc++6 1:12.2.0-14+deb12u1 arm64\n"
    ended = subprocess.run(command, input=listed, check=True, capture_output=True, text=True)
    made = json.loads(ended.stdout)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert [one["purl"] for one in made["components"]] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64",
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=arm64",
    ]
    assert subprocess.run(command, input="\n", check=False, capture_output=True, text=True).returncode == 1
