"""What an answer that is no success means, in our words."""

from __future__ import annotations

from snaprotd.core.errors import Busy, CloudError, Full, NotFound, Permanent, Temporary
from snaprotd.provider.vps_org import answers
from snaprotd.provider.vps_org.calls import Call, Reply


def message_of(call: Call, reply: Reply, host: str) -> str:
    """What is said of it, with the provider's own words where there are any."""
    words = answers.error_text(reply.body)
    return f"{host} answered {reply.status} to {call}" + (f": {words}" if words else "")


def without_token(call: Call, reply: Reply, message: str) -> CloudError:
    """The word for an answer that is not 2xx, and has nothing to do with the token."""
    match reply.status:
        case 429:
            return Temporary(message, retry_after=reply.retry_after)
        case 409 | 423 if call.changes:
            # A proxy that sent a create twice may say in this way that the snapshot exists: it is looked for.
            return call.lost(message) if call.creates and reply.status == 409 else Busy(message)
        case 400 if call.creates:
            return Full(message, is_said=answers.speaks_of_a_limit(reply.body))
        case 404 if answers.is_own_error(reply.body):
            return NotFound(message)
        case 404:
            return call.lost(f"{message} (not the provider's own words: a proxy's, or check api.base_url)")
        case status if status >= 500 or status < 200 or status == 408:
            return call.lost(message, retry_after=reply.retry_after if status == 503 else None)
        case status if status < 400:
            return Permanent(f"{message} (a redirect, not followed: check api.base_url)")
    return Permanent(message)
