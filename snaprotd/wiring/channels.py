"""The channels that a configuration names, as what sends to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snaprotd.config.channels import Email, Run, Webhook
from snaprotd.config.channels import Ping as Check
from snaprotd.config.settings import Config
from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import WORDS, Kind, Style
from snaprotd.observe.delivery import Channel
from snaprotd.provider.token import TokenError, token_source
from snaprotd.senders import Sender
from snaprotd.senders.http import Exchange, Transport
from snaprotd.senders.mail import Mail
from snaprotd.senders.ping import Ping
from snaprotd.senders.program import Program
from snaprotd.senders.secrets import SecretError, Secrets
from snaprotd.senders.webhook import Webhook as Hook


@dataclass(frozen=True, kw_only=True)
class Channels:
    """All ways to somebody."""

    told: Sequence[Channel]
    """Those of `notify`, and after them the checks of policies."""
    members: Mapping[str, Check]
    """Which of them is the check of which policies, by its name."""
    heartbeat: Ping | None


def open_channels(config: Config, environ: Mapping[str, str], transport: Transport | None = None) -> Channels:
    """Nothing is read or sent by it. Another `transport` stands in where there is no network."""
    exchange = Exchange(environ, transport)
    secrets = Secrets(config.secret_folders, is_token=_token_in(config.api.token_file, environ))
    numbers = Counter[str]()

    def named(kind: str, whom: object, sender: Sender, on: Sequence[Kind], *, is_check: bool = False) -> Channel:
        """Called by whom it tells, so that what waits for him waits for him in another order of the file too."""
        name = f"{kind} {whom}"
        numbers[name] += 1
        name = name if numbers[name] == 1 else f"{name} ({numbers[name]})"
        return Channel(name=name, kind=kind, sender=sender, on=frozenset(on), is_check=is_check)

    def check(given: Check, on: Sequence[Kind]) -> Channel:
        kinds = [Kind.RECOVERY] if given.style is Style.PLAIN else on
        ping = Ping(exchange, secrets.file(given.url_file), given.style)
        return named("ping", given.url_file, ping, kinds, is_check=True)

    told = []
    for channel in config.notify:
        match channel.way:
            case Webhook(url_file=url, secret_file=key):
                hook = Hook(exchange, secrets.file(url), secrets.file(key) if key else None)
                told.append(named("webhook", url, hook, channel.on))
            case Email():
                told.append(named("email", ",".join(channel.way.to), _mail(channel.way, secrets, environ), channel.on))
            case Check():
                told.append(check(channel.way, channel.on))
            case Run(argv=argv):
                told.append(named("run", " ".join(argv), Program(argv, folders=config.program_folders), channel.on))
    checks = dict.fromkeys(entry.ping for entry in config.entries if entry.ping is not None)
    of_policies = {given: check(given, WORDS) for given in checks}
    beat = config.heartbeat
    return Channels(
        told=[*told, *of_policies.values()],
        members={one.name: given for given, one in of_policies.items()},
        heartbeat=Ping(exchange, secrets.file(beat.url_file), Style.PLAIN) if beat else None,
    )


def _mail(way: Email, secrets: Secrets, environ: Mapping[str, str]) -> Mail:
    host, port = way.smtp
    password = secrets.file(way.password_file) if way.password_file else None
    return Mail(to=way.to, sender=way.sender, host=host, port=port, user=way.user, password=password, environ=environ)


def _token_in(token_file: Path | None, environ: Mapping[str, str]) -> Callable[[str], bool]:
    """Whether a text holds the API token, as it is at the moment of the call."""

    def is_token(text: str) -> bool:
        try:
            secrets = token_source(token_file, environ).secrets()
        except TokenError:
            return False
        return any(secret in text for secret in secrets)

    return is_token


def password_of(config: Config, environ: Mapping[str, str]) -> Callable[[], Awaitable[str | None]]:
    """The password of the ledger's server, as of each call; None where none is named. Raises `LedgerError`."""
    folders, is_token = config.secret_folders, _token_in(config.api.token_file, environ)
    secrets = Secrets(folders, is_token=is_token, whose="state_password_file")
    file = None if config.state_password_file is None else secrets.file(config.state_password_file)

    async def password() -> str | None:
        try:
            return None if file is None else await file.password()
        except SecretError as error:
            raise LedgerError(f"the ledger's password cannot be read: {error}") from error

    return password


def same_channels(one: Config, other: Config) -> bool:
    """Whether the same are told: those of a configuration that differs elsewhere need not be opened anew."""
    pings = [{entry.ping for entry in config.entries} for config in (one, other)]
    same = [(config.notify, config.heartbeat, config.secret_folders, config.api.token_file) for config in (one, other)]
    return pings[0] == pings[1] and same[0] == same[1]
