"""Whose ledger it is: one that belongs to another account is refused before anything is sent for what stands in it."""

from __future__ import annotations

from snaprotd.core.errors import AnothersLedger, CloudError, LedgerError
from snaprotd.ledger.starts import Possession
from snaprotd.ledger.store import Ledger
from snaprotd.provider import Doubtful
from snaprotd.provider.inventory import Inventory

WHAT_TO_DO = "give this account a ledger of its own, with `state`, or put back what was there before"


async def demand_own_account(ledger: Ledger, inventory: Inventory) -> None:
    """Raises `AnothersLedger`, with what to do, where the ledger is known to belong to another account.

    A ledger that cannot be used, or a provider that does not say whose the token is, proves nothing: what is owed must
    not wait for either.
    """
    try:
        known = await ledger.starts.whose()
    except LedgerError:
        return
    if known.account not in ("", ledger.starts.account):
        raise AnothersLedger(
            f"the ledger {ledger.name} belongs to the account at {known.account}, and `api.base_url` names "
            f"{ledger.starts.account}: {WHAT_TO_DO}"
        )
    email = await inventory.owner()
    if await _is_another(known, email, inventory):
        raise AnothersLedger(
            f"the ledger {ledger.name} belongs to the account of {known.email}, and the token is one of {email}, "
            f"which has none of its servers: {WHAT_TO_DO}"
        )
    if (known.account, known.email) != (ledger.starts.account, email or known.email):
        try:
            is_ours = await ledger.starts.take_possession(email, known=known)
        except LedgerError:
            return
        if not is_ours:  # several processes begin at once
            await demand_own_account(ledger, inventory)


async def _is_another(known: Possession, email: str, inventory: Inventory) -> bool:
    """An account whose e-mail was changed has the same servers."""
    if not (known.email and email and known.servers) or email == known.email:
        return False
    try:
        listed = await inventory.servers()
    except Doubtful as doubt:
        listed = doubt.readable
    except CloudError:
        return False
    return known.servers.isdisjoint(one for server in listed for one in server.ids)
