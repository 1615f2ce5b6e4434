"""What the writer of the configuration file may not decide alone. And what is remarked on.

That is where the API token is sent, which files are read as secrets of channels, and which programs are run.
The file may be another person's than the token (a ConfigMap beside a Secret, a repository beside a credential). An
address of their own in it would hand them the token, so the hosts are named by whoever runs snaprotd.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from snaprotd.config.addresses import is_open_beyond
from snaprotd.config.channels import MOST_FILES, files_named
from snaprotd.config.mistakes import Findings
from snaprotd.config.settings import OLD_STATE, PROGRAMS, ApiSettings, Config
from snaprotd.config.shape import FileKeys
from snaprotd.core.words import is_loopback

if TYPE_CHECKING:
    from snaprotd.config.web_file import WebFile

USUAL = frozenset({"admin.vps.org"})
"""Where it may go, besides loopback, as long as $SNAPROTD_ALLOW_HOST is not set: that names all hosts, with commas
between them, and may name a port of each."""

_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
"""A host and a port, as they stand in a URL. Nothing that two readers of URLs could understand in two ways."""
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+")
"""An IPv6 address as it may be named without its brackets."""


def why_not_sent_to(base_url: str, environ: Mapping[str, str]) -> str:
    """Why the token may not go to this address, as a sentence that says who can allow it; empty where it may."""
    try:
        scheme, written = urlsplit(base_url)[:2]
    except ValueError:  # no address at all: a broken [address]
        scheme, written = "", base_url
    host, port = _place(written)
    named = environ.get("SNAPROTD_ALLOW_HOST", "").strip()
    if named:
        allowed = [_place(one.strip()) for one in named.split(",")]
        if host and ((host, port) in allowed or (host, "") in allowed):
            return _why_not_by(scheme, host)
        return f"the API token may not be sent to {written}: it goes only where $SNAPROTD_ALLOW_HOST says, {named}"
    if host in USUAL or is_loopback(host):
        return _why_not_by(scheme, host)
    usual = " and ".join([*sorted(USUAL), "to this machine"])
    return (
        f"the API token may not be sent to {written}: it goes to {usual} only, unless whoever runs snaprotd names the "
        f"host in $SNAPROTD_ALLOW_HOST"
    )


def _why_not_by(scheme: str, host: str) -> str:
    if scheme == "https" or (scheme == "http" and is_loopback(host)):
        return ""
    return (
        f"the API token may not be sent to {host} by {scheme or 'nothing'}: http is for this machine, else it is https"
    )


def _place(written: str) -> tuple[str, str]:
    """Host and port, each in the one form in which it is compared; empty where the text is no such place."""
    if (found := _PLACE.fullmatch(written)) is None:
        return _address(written) if _ADDRESS.fullmatch(written) else "", ""
    return _address(found[1] or found[2]) or (found[2] or "").lower(), str(int(found[3])) if found[3] else ""


def _address(written: str) -> str:
    try:
        return str(ip_address(written))
    except ValueError:
        return ""


def secret_folders(config: Path, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where files with secrets of channels may lie: beside the configuration, where it is usually, and where whoever
    runs snaprotd says."""
    named = [*environ.get("SNAPROTD_SECRETS", "").split(":"), environ.get("CREDENTIALS_DIRECTORY", "")]
    return (config.absolute().parent, PROGRAMS.parent, *(Path(one) for one in named if os.path.isabs(one)))


def program_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the programs lie that may be run: the usual place, and where whoever runs snaprotd says."""
    named = environ.get("SNAPROTD_ALLOW_RUN", "").replace(",", ":").split(":")
    return (PROGRAMS, *(Path(one.strip()) for one in named if os.path.isabs(one.strip())))


def check_trust(keys: FileKeys, source: Path, environ: Mapping[str, str], findings: Findings) -> None:
    """Find what the file decides though its writer may not."""
    _check_files(keys, source, environ, findings)
    _check_programs(keys, environ, findings)
    if findings.trusts("api", "base_url"):
        base_url = keys.get("api", {}).get("base_url", ApiSettings.base_url)
        if why := why_not_sent_to(base_url, environ):
            findings.add(("api", "base_url"), why)


def _check_files(keys: FileKeys, source: Path, environ: Mapping[str, str], findings: Findings) -> None:
    """Else any file that we may read could be sent away as a password."""
    folders = secret_folders(source, environ)
    real = [Path(os.path.realpath(folder)) for folder in folders]
    named = list(files_named(keys))
    for path, file in named:
        if not any(Path(os.path.realpath(file)).is_relative_to(folder) for folder in real):
            places = ", ".join(dict.fromkeys(map(str, folders)))
            why = (
                f"{file} is in none of the folders in which such files may lie: {places}; $SNAPROTD_SECRETS names more"
            )
            findings.add(path, why)
    if len({file for _, file in named}) > MOST_FILES:
        findings.add(named[-1][0], f"too many files with secrets: {MOST_FILES} different ones at most")


def _check_programs(keys: FileKeys, environ: Mapping[str, str], findings: Findings) -> None:
    folders = program_folders(environ)
    for index, given in enumerate(keys.get("notify", [])):
        if "run" in given and not any(_lies_in(Path(given["run"][0]), folder) for folder in folders):
            places = " or ".join(map(str, folders))
            why = f"{given['run'][0]} may not be run: programs are to lie in {places}; $SNAPROTD_ALLOW_RUN names more"
            findings.add(("notify", index, "run"), why)


def _lies_in(program: Path, folder: Path) -> bool:
    """As it is written; wherever links lead is looked at before it is run."""
    return program.is_absolute() and ".." not in program.parts and program.is_relative_to(folder)


WHY_NOT_THERE = (
    "the ledger is ./snaprotd-state.db, in the folder that snaprotd is started in: another one will not find it. "
    "Name it with `state`, or move it there while nothing runs"
)


def remarks_on(config: Config, web_file: WebFile | None) -> list[str]:
    """What is allowed, and worth a look by whoever runs snaprotd: sentences for `check` and the page.

    `web_file` is that of `web_config`; None where there is none, or it has not been read.
    """
    place = urlsplit(config.api.base_url)
    remarks = []
    if is_loopback(place.hostname or ""):
        remarks.append(
            f"the API token goes to {place.netloc}, on this machine and not to VPS.org: right for a simulation or a "
            f"relay; else see who wrote `api.base_url`, and name admin.vps.org alone in $SNAPROTD_ALLOW_HOST"
        )
    if config.state == OLD_STATE:
        remarks.append(WHY_NOT_THERE)
    if "://" in config.state and urlsplit(config.state).password:
        remarks.append("state: whoever may read this file knows the password in it: `state_password_file` is for that")
    if is_open_beyond(config.listen) and (unasked := _why_anybody_looks(config, web_file)):
        remarks.append(f"listen: {unasked}")
    return remarks


def _why_anybody_looks(config: Config, web_file: WebFile | None) -> str:
    """What somebody should know of pages that other machines may reach; empty where there is nothing to say."""
    if web_file is None:
        is_unread = config.web_config is not None
        nobody = "other machines may reach the pages, and nobody is asked who looks: `web_config` is for that"
        return "" if is_unread else nobody
    if not web_file.users and web_file.client_auth_type == "NoClientCert":
        return "other machines may reach the pages, and nobody is asked who looks: `web_config` names no users"
    if web_file.cert_file is None:
        return "passwords go over the network as they are: `web_config` has no `tls_server_config`"
    return ""
