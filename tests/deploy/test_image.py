"""The recipe of the container image, and what is kept from the builder. `make test-image` builds it and runs it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from starlette.routing import Route

from snaprotd import __version__
from snaprotd.config import file as config
from snaprotd.engine import rotations
from snaprotd.web import site as web

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text()
PAGE = (ROOT / "deploy" / "container" / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

SMALLEST = "servers: [{id: 1, schedule: '@daily'}]"
"""A configuration with nothing but the defaults."""

NOBODY: Any = None
"""In the place of a daemon, where no page is asked for."""


# --- Reading a Dockerfile ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Instruction:
    word: str
    """In capitals."""
    options: tuple[str, ...]
    """Those in front, such as `--from=build`."""
    rest: str
    """What follows them, its lines joined."""

    @property
    def exec_form(self) -> list[str] | None:
        """The program and its arguments; None where a shell would be asked to read it."""
        try:
            words = json.loads(self.rest)
        except ValueError:
            return None
        return words if isinstance(words, list) else None

    @property
    def settings(self) -> dict[str, str]:
        """Of ENV, LABEL and ARG: names and values."""
        return dict(word.partition("=")[::2] for word in shlex.split(self.rest))


def instructions(text: str) -> list[Instruction]:
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = without_comments.replace("\\\n", "").splitlines()
    return [_instruction(line) for line in lines if line.strip()]


def _instruction(line: str) -> Instruction:
    word, _, rest = line.strip().partition(" ")
    options = []
    while (rest := rest.lstrip()).startswith("--") and word.upper() not in ("HEALTHCHECK", "CMD"):
        option, _, rest = rest.partition(" ")
        options.append(option)
    return Instruction(word=word.upper(), options=tuple(options), rest=rest)


def stages(text: str) -> list[list[Instruction]]:
    """Each begins with its FROM."""
    read = instructions(text)
    starts = [number for number, one in enumerate(read) if one.word == "FROM"]
    return [read[start:end] for start, end in pairwise([*starts, len(read)])]


def of(word: str, text: str = DOCKERFILE) -> list[Instruction]:
    """The instructions of that word in the last stage, the one that is kept."""
    return [one for one in stages(text)[-1] if one.word == word]


def the(word: str, text: str = DOCKERFILE) -> Instruction:
    """The only one."""
    (found,) = of(word, text)
    return found


def settings_of(word: str) -> dict[str, str]:
    return {name: value for one in of(word) for name, value in one.settings.items()}


def health_check(text: str = DOCKERFILE) -> list[str]:
    """The program and its arguments. Empty where a shell would be asked."""
    _, _, command = the("HEALTHCHECK", text).rest.partition("CMD ")
    return Instruction(word="CMD", options=(), rest=command).exec_form or []


# --- The rules of the image --------------------------------------------------------------------------------------


def _bases(text: str) -> list[str]:
    """The images that are not stages of this file."""
    named = {stage[0].rest.partition(" AS ")[2] for stage in stages(text)}
    return [base for stage in stages(text) if (base := stage[0].rest.split()[0]) not in named]


def _base_is_pinned(text: str) -> bool:
    tag = r"[\w.-]+(/[\w.-]+)*:(?!latest\b)[\w.-]+@sha256:[0-9a-f]{64}"
    return len(_bases(text)) == 1 and all(re.fullmatch(tag, base) for base in _bases(text))


def _shells_out(text: str) -> bool:
    started = [the("ENTRYPOINT", text).exec_form, the("CMD", text).exec_form, health_check(text)]
    words = {Path(word).name for form in started for word in form or []}
    return not all(started) or bool(words & {"sh", "bash", "dash", "curl", "wget", "nc"})


def _installs(text: str) -> Iterator[str]:
    for one in instructions(text):
        if one.word == "RUN":
            yield from (
                part for part in re.split(r"&&|;|\|", one.rest) if re.search(r"\bpip\b.* (install|wheel)\b", part)
            )


def _names_a_secret(text: str) -> bool:
    secret = re.compile(r"token|secret|passw|credential|_key|index_url|api_key", re.IGNORECASE)
    return any(secret.search(name) for one in instructions(text) if one.word in ("ARG", "ENV") for name in one.settings)


def _is_left_to_root(text: str) -> bool:
    """The user owns nothing but the ledger's folder, which is made, not copied."""
    copies = [option for one in instructions(text) if one.word in ("COPY", "ADD") for option in one.options]
    return not any(option.startswith(("--chown", "--chmod")) for option in copies) and "chown" not in text


RULES: Mapping[str, Callable[[str], bool]] = {
    "one base, pinned by its digest": _base_is_pinned,
    "what builds is not what is kept": lambda text: (
        len(stages(text)) > 1
        and all(any(option.startswith("--from=") for option in one.options) for one in of("COPY", text))
    ),
    "no user by name, and not root": lambda text: bool(re.fullmatch(r"[1-9]\d*:[1-9]\d*", the("USER", text).rest)),
    "no shell to start it, or to ask for its health": lambda text: not _shells_out(text),
    "nothing is fetched but by pip": lambda text: not re.search(r"\w://|\b(ADD|curl|wget|apt|apt-get)\b", text),
    "nothing is installed without its hash": lambda text: all(
        re.search(r"--require-hashes|--no-index", install) for install in _installs(text)
    ),
    "nothing is compiled from its source": lambda text: all(
        re.search(r"--only-binary :all:|--no-index", install) for install in _installs(text)
    ),
    "no secret in arguments or environment": lambda text: not _names_a_secret(text),
    "all is root's": _is_left_to_root,
    "pip does not stay": lambda text: any(re.search(r"pip uninstall\b.* pip\b", one.rest) for one in of("RUN", text)),
    "the output is not held back, and no bytecode is written": lambda text: (
        {
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }.items()
        <= {name: value for one in of("ENV", text) for name, value in one.settings.items()}.items()
    ),
}
"""What holds for the Dockerfile, in words, and how it is seen."""


def broken_rules(text: str) -> list[str]:
    return [rule for rule, holds in RULES.items() if not holds(text)]


def test_the_image_keeps_to_every_rule() -> None:
    assert broken_rules(DOCKERFILE) == []


(BASE,) = _bases(DOCKERFILE)

BREACHES: list[tuple[str, str, str]] = [
    ("one base, pinned by its digest", f"FROM {BASE} AS base", "FROM python AS base"),
    ("one base, pinned by its digest", f"FROM {BASE} AS base", "FROM python:latest AS base"),
    ("one base, pinned by its digest", f"FROM {BASE} AS base", f"FROM {BASE.partition('@')[0]} AS base"),
    ("one base, pinned by its digest", "FROM base AS build", "FROM python:3.13 AS build"),
    ("what builds is not what is kept", "COPY --from=build /opt/snaprotd /opt/snaprotd", "COPY . /opt/snaprotd"),
    ("no user by name, and not root", "USER 65532:65532", "USER 0:0"),
    ("no user by name, and not root", "USER 65532:65532", "USER 65532"),
    ("no user by name, and not root", "USER 65532:65532", "USER nobody"),
    ("no shell to start it, or to ask for its health", 'ENTRYPOINT ["snaprotd"]', "ENTRYPOINT snaprotd"),
    ("no shell to start it, or to ask for its health", 'CMD ["run"]', "CMD run"),
    ("no shell to start it, or to ask for its health", 'CMD ["python", "-c"', 'CMD ["sh", "-c"'),
    ("no shell to start it, or to ask for its health", 'CMD ["python", "-c"', "CMD python"),
    ("nothing is fetched but by pip", "COPY pyproject.toml", "ADD pyproject.toml"),
    ("nothing is fetched but by pip", "COPY pyproject.toml", "RUN curl -O https://example.org\nCOPY pyproject.toml"),
    ("nothing is installed without its hash", "--require-hashes --requirement requirements.txt", "--requirement r.txt"),
    ("nothing is installed without its hash", "--no-index --no-deps --no-build-isolation", "--only-binary :all:"),
    ("nothing is compiled from its source", "--no-compile --only-binary :all:", "--no-compile"),
    ("no secret in arguments or environment", "ARG VERSION", "ARG PIP_INDEX_URL\nARG VERSION"),
    ("no secret in arguments or environment", "PYTHONUNBUFFERED=1", "PYTHONUNBUFFERED=1 VPS_API_TOKEN=x"),
    ("all is root's", "COPY --from=build /opt", "COPY --chown=65532:65532 --from=build /opt"),
    ("all is root's", "COPY --from=build /opt", "COPY --chmod=777 --from=build /opt"),
    ("pip does not stay", "python -m pip uninstall --quiet --yes pip", "true"),
    ("the output is not held back, and no bytecode is written", "PYTHONUNBUFFERED=1", "PYTHONUNBUFFERED=0"),
    ("the output is not held back, and no bytecode is written", "PYTHONDONTWRITEBYTECODE=1", "SOMETHING=1"),
]


@pytest.mark.parametrize(("rule", "ours", "theirs"), BREACHES)
def test_each_rule_is_looked_at(rule: str, ours: str, theirs: str) -> None:
    assert ours in DOCKERFILE
    assert broken_rules(DOCKERFILE.replace(ours, theirs)) == [rule]


def test_no_rule_is_left_without_a_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == RULES.keys()


def test_the_bytecode_holds_whatever_a_layer_does_to_the_times_of_files() -> None:
    compiled = [one.rest for stage in stages(DOCKERFILE)[1:] for one in stage if "compileall" in one.rest]
    assert len(compiled) == 2, "the libraries and the standard library"
    assert all("--invalidation-mode unchecked-hash" in command for command in compiled)


def test_what_builds_the_package_is_pinned() -> None:
    wanted = {re.split(r"[^\w-]", requirement)[0] for requirement in PYPROJECT["build-system"]["requires"]}
    assert wanted <= set(re.findall(r"'([\w-]+)==[\w.]+ --hash=sha256:[0-9a-f]{64}'", DOCKERFILE))


# --- What it says of itself --------------------------------------------------------------------------------------


def test_the_label_of_the_version_is_the_packages() -> None:
    assert settings_of("LABEL")["org.opencontainers.image.version"] == "$VERSION"
    assert settings_of("ARG") == {"VERSION": __version__}


def test_a_build_with_another_version_than_the_packages_fails() -> None:
    words = [one.word for one in stages(DOCKERFILE)[-1]]
    checks = [one.rest for one in of("RUN") if 'test "snaprotd, version $VERSION" = "$(/opt/snaprotd' in one.rest]
    assert len(checks) == 1
    assert " || " not in checks[0]
    assert words.index("ARG") < words.index("RUN")


def test_the_labels_are_those_of_the_package_and_of_the_base() -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in settings_of("LABEL").items()}
    project = PYPROJECT["project"]
    assert labels.pop("version")
    assert labels == {
        "title": project["name"],
        "description": project["description"],
        "licenses": project["license"]["text"],
        "base.name": BASE.partition("@")[0],
    }


# --- Fit for snaprotd, and for the manifests ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    path = ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml"
    spec: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]
    return spec


def test_the_user_is_the_manifests(pod: Mapping[str, Any]) -> None:
    security = pod["securityContext"]
    assert the("USER").rest == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_the_folder_of_the_ledger_is_a_volume_of_the_user(pod: Mapping[str, Any]) -> None:
    folder = the("VOLUME").rest
    assert folder in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    user, group = the("USER").rest.split(":")
    made = f"install --directory --owner={user} --group={group} --mode=0700 {folder}"
    assert any(made in one.rest for one in of("RUN"))
    words = [one.word for one in stages(DOCKERFILE)[-1]]
    assert words.index("RUN") < words.index("VOLUME"), "a folder that is made after its VOLUME is not kept"


def test_a_ledger_that_is_not_configured_is_on_the_volume() -> None:
    assert config.parse(SMALLEST, "config.yaml", settings_of("ENV")).state == f"{the('VOLUME').rest}/state.db"


def test_nothing_else_of_the_configuration_is_set_in_silence() -> None:
    of_the_process = {"PATH", "MALLOC_ARENA_MAX", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    assert settings_of("ENV").keys() == of_the_process | {"STATE_DIRECTORY"}


def test_it_is_started_as_the_manifests_start_it(pod: Mapping[str, Any]) -> None:
    (container,) = pod["containers"]
    assert "command" not in container
    assert the("ENTRYPOINT").exec_form == list(PYPROJECT["project"]["scripts"])
    assert (the("CMD").exec_form or [])[0] == container["args"][0] == "run"


def test_the_programs_are_on_the_path() -> None:
    (venv,) = re.findall(r"python -m venv --without-pip (\S+)", DOCKERFILE)
    assert settings_of("ENV")["PATH"] == f"{venv}/bin:$PATH"
    assert [one.rest for one in of("COPY")] == [f"{venv} {venv}"]


# --- The health check --------------------------------------------------------------------------------------------


@contextmanager
def answering(code: int) -> Iterator[tuple[int, list[str]]]:
    """Something that answers each request with `code`; its port, and the paths it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"this is what it said\n")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def health_at(port: int) -> subprocess.CompletedProcess[str]:
    """The health check of the image, but for the port; the environment leads to a proxy that is not there."""
    program, *arguments = health_check()
    assert program == "python"
    default = config.parse(SMALLEST, "config.yaml", {}).listen
    assert isinstance(default, tuple)
    assert arguments[-1].count(str(default[1])) == 1
    arguments[-1] = arguments[-1].replace(str(default[1]), str(port))
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")
    return subprocess.run(
        [sys.executable, *arguments], env=proxies, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(("code", "healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_goes_by_the_answer_and_shows_it(code: int, healthy: bool) -> None:
    with answering(code) as (port, asked):
        ended = health_at(port)
    assert (ended.returncode == 0) is healthy
    assert "this is what it said" in ended.stdout
    served = {route.path for route in web.application(NOBODY).routes if isinstance(route, Route)}
    assert asked == ["/healthz"]
    assert "/healthz" in served


def test_the_health_check_fails_where_nothing_listens() -> None:
    with answering(200) as (port, _):
        pass
    assert health_at(port).returncode == 1


def test_the_port_is_the_one_of_the_default_and_of_the_manifests(pod: Mapping[str, Any]) -> None:
    default = config.parse(SMALLEST, "config.yaml", {}).listen
    assert isinstance(default, tuple)
    assert the("EXPOSE").rest == str(default[1])
    assert [port["containerPort"] for port in pod["containers"][0]["ports"]] == [default[1]]


# --- What is kept from the builder -------------------------------------------------------------------------------


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of a .dockerignore; what lies in a folder that fits is meant too."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    body = "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", text))
    body = re.sub(r"\\\[(\w+)\\\]", r"[\1]", body)
    return re.compile(f"{body}(?:/.*)?")


def is_sent(path: str, patterns: Sequence[str]) -> bool:
    """Whether the builder gets it: the last pattern that fits decides."""
    sent = True
    for pattern in patterns:
        if _pattern(pattern.removeprefix("!")).fullmatch(path):
            sent = pattern.startswith("!")
    return sent


PATTERNS = [line for line in IGNORED.splitlines() if line and not line.startswith("#")]

KEPT_BACK = [
    ".git/config",
    ".venv/bin/python",
    ".pytest_cache/v/cache/nodeids",
    ".ci/run",
    ".env",
    "prod.env",
    "token",
    "config.yaml",
    "config.example.yaml",
    "state.db",
    "snaprotd-state.db",
    "snaprotd-state.db-wal",
    "snaprotd-state.db.lock",
    "requirements-dev.txt",
    "tests/deploy/test_image.py",
    "deploy/kubernetes/base/deployment.yaml",
    "dist/snaprotd-0.1.0.tar.gz",
    "snaprotd/.env",
    "snaprotd/web/pages/local.env",
    "snaprotd/state.db-shm",
    "snaprotd/commands/token",
    "snaprotd/.idea/workspace.xml",
    "snaprotd/__pycache__/cli.cpython-313.pyc",
    "snaprotd/commands/__pycache__/look.cpython-313.pyc",
    "snaprotd/old.pyc",
]


@pytest.mark.parametrize("path", KEPT_BACK)
def test_the_builder_does_not_get(path: str) -> None:
    assert not is_sent(path, PATTERNS)


def copied() -> list[str]:
    """The files and folders that the Dockerfile copies from the builder's folder."""
    copies = [one for stage in stages(DOCKERFILE) for one in stage if one.word == "COPY" and not one.options]
    return [source for one in copies for source in one.rest.split()[:-1]]


def test_the_builder_gets_all_that_is_copied_and_nothing_else() -> None:
    let_in = {pattern.removeprefix("!") for pattern in PATTERNS if pattern.startswith("!")}
    assert let_in == set(copied())
    assert PATTERNS[0] == "*"


def test_no_file_of_the_package_is_kept_back() -> None:
    paths = [path for path in (ROOT / "snaprotd").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert any(path.suffix == ".html" for path in paths)
    for path in paths:
        assert is_sent(PurePosixPath(path.relative_to(ROOT)).as_posix(), PATTERNS), path


# --- The page on how to run it -----------------------------------------------------------------------------------


def test_a_container_that_is_stopped_is_given_longer_than_a_drain_may_take() -> None:
    longest = config.parse(SMALLEST, "config.yaml", {}).drain_timeout + rotations.FINAL_PATIENCE
    (given,) = re.findall(r"--stop-timeout (\d+)", PAGE)
    assert timedelta(seconds=int(given)) > timedelta(seconds=longest)


def test_the_page_runs_this_version_on_a_read_only_root_with_a_named_volume() -> None:
    (command,) = re.findall(r"^docker run --detach(?:.*\\\n)*.*", PAGE, flags=re.MULTILINE)
    words = shlex.split(command.replace("\\\n", ""))
    assert {"--read-only", f"snaprotd:{__version__}", f"snaprotd:{the('VOLUME').rest}"} <= set(words)
    assert set(re.findall(r"snaprotd:(\d[\w.]*)", PAGE)) == {__version__}


def test_the_configuration_on_the_page_is_valid_and_listens_where_the_port_is_published() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert config.parse(text, "config.yaml", {}).listen == ("0.0.0.0", int(the("EXPOSE").rest))
    assert f"--publish 127.0.0.1:{the('EXPOSE').rest}:{the('EXPOSE').rest}" in PAGE
