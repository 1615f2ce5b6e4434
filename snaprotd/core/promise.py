"""What is kept with a server: its power, and what it takes to pay its start without any configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from snaprotd.core.power import Power


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is needed to pay a start without any configuration; kept beside the promise. Never the token itself."""

    base_url: str = ""
    token_file: str = ""
    """Empty where the token comes from the environment."""
    request_timeout: float = 30.0
    settle: float = 120.0
    stop_timeout: float = 300.0
    start_timeout: float = 600.0
    poll_interval: float = 15.0
    instance: str = ""
    """Whose snapshots of the server are ours; empty where a record does not say."""


@dataclass(frozen=True, kw_only=True)
class ServerPower:
    """The power of one server of an account, as the ledger keeps it."""

    account: str
    server_id: str
    label: str
    power: Power
    terms: Terms = field(default_factory=Terms)
    let_go: str = ""
    """Who let go of a start that was owed, when and why; empty where nobody has."""

    def may_strike(self) -> bool:
        """A request of ours may still change the server's power."""
        terms = self.terms
        return self.power.may_strike(
            settle=terms.settle, stop_timeout=terms.stop_timeout, start_timeout=terms.start_timeout
        )

    def lets_go_of(self, owing: Power) -> bool:
        """Whether the start that is owed by `owing` was let go of, as this record has it."""
        return not self.power.is_followed and self.power.released >= owing.asked
