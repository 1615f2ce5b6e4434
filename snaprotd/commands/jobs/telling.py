"""The channels of a configuration, tried by hand: with a message to each, or without any."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from snaprotd.config.channels import Email, Run, Webhook
from snaprotd.config.channels import Ping as Check
from snaprotd.config.settings import Config
from snaprotd.core.telling import Kind, Message
from snaprotd.report.findings import Finding
from snaprotd.senders import Outcome
from snaprotd.wiring.channels import Channels, open_channels


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One channel, and what came of it."""

    name: str
    whom: str
    """What it is, in words that may be shown."""
    is_good: bool
    said: str


async def send_tests(config: Config, environ: Mapping[str, str]) -> list[Tried]:
    """Send each a message, and the heartbeat's check a beat, and see what comes back."""
    channels = open_channels(config, environ)
    message = Message(
        id=f"test-{uuid.uuid4().hex}",
        at=datetime.now(UTC),
        kind=Kind.TEST,
        severity="ok",
        server=None,
        text="a test of snaprotd's notifications: nothing has happened, and nothing is wrong",
        do="Nothing.",
    )
    sending = [channel.sender.send(message) for channel in channels.told]
    ways = [*zip([channel.kind for channel in channels.told], _whom(config, channels), strict=True)]
    if channels.heartbeat is not None and config.heartbeat is not None:
        sending.append(channels.heartbeat.beat())
        ways.append(("heartbeat", f"the URL in {config.heartbeat.url_file}"))
    return [
        Tried(name=name, whom=whom, is_good=answer.outcome is Outcome.SENT, said=answer.said)
        for (name, whom), answer in zip(ways, await asyncio.gather(*sending), strict=True)
    ]


async def look_at(config: Config, environ: Mapping[str, str]) -> list[Tried]:
    """Look at their files and their names. Nothing is sent."""
    channels = open_channels(config, environ)
    named = [(channel.kind, channel.sender) for channel in channels.told]
    whom = _whom(config, channels)
    if channels.heartbeat is not None and config.heartbeat is not None:
        named.append(("heartbeat", channels.heartbeat))
        whom = [*whom, f"the URL in {config.heartbeat.url_file}"]
    found = await asyncio.gather(*(sender.look() for _, sender in named))
    return [
        Tried(name=name, whom=one, is_good=not why, said="; ".join(why) or "its file and its name are good")
        for (name, _), one, why in zip(named, whom, found, strict=True)
    ]


async def findings_of_channels(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    return [
        Finding(ok=one.is_good, text=f"{one.name}: {one.whom}{'' if one.is_good else f': {one.said}'}")
        for one in await look_at(config, environ)
    ]


def _whom(config: Config, channels: Channels) -> Sequence[str]:
    """In the order of the channels."""
    of_policies = [f"the URL in {check.url_file}, for the policies that name it" for check in channels.members.values()]
    return [*(_in_words(channel.way) for channel in config.notify), *of_policies]


def _in_words(way: Webhook | Email | Check | Run) -> str:
    match way:
        case Webhook() | Check():
            return f"the URL in {way.url_file}"
        case Email():
            return f"{', '.join(way.to)} by {way.smtp[0]}:{way.smtp[1]}"
        case Run():
            return way.argv[0]
