"""The one snapshot of a rotation: whether it was asked for, what is open about that, and which one it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snaprotd.core.power import SETTLE_MARGIN


@dataclass(frozen=True, kw_only=True)
class Creation:
    """What is remembered of a snapshot that is to be made. Ages are in seconds."""

    creates: int = 0
    """Requests for the snapshot sent."""
    create_open: float | None = None
    """Age of the last of them, while it is not known whether it was, or will be, carried out."""
    snapshot_id: str | None = None
    unseen: float = 0.0
    """How long ago the snapshot was asked for or last seen in the list."""

    def is_unsettled(self, settle: float) -> bool:
        """A request for the snapshot may still be carried out: look for it, and send no other. `settle` in seconds."""
        return self.create_open is not None and self.create_open < settle * SETTLE_MARGIN


def aged(creation: Creation, seconds: float) -> Creation:
    """After `seconds` more of a monotonic clock."""
    return replace(
        creation,
        unseen=creation.unseen + seconds,
        create_open=None if creation.create_open is None else creation.create_open + seconds,
    )


def promised(creation: Creation) -> Creation:
    """The snapshot is about to be asked for."""
    return replace(creation, create_open=0.0, creates=creation.creates + 1)


def lost(creation: Creation) -> Creation:
    """The answer was lost: the request may have been carried out, or may yet be."""
    return replace(creation, create_open=0.0)


def not_sent(creation: Creation) -> Creation:
    """The request was certainly not carried out, and may be sent again."""
    return replace(creation, create_open=None, creates=creation.creates - 1)


def refused(creation: Creation) -> Creation:
    """The provider will not make it."""
    return replace(creation, create_open=None)


def made(creation: Creation, snapshot_id: str) -> Creation:
    """The snapshot is there, or the provider has said that it will be."""
    return replace(creation, snapshot_id=snapshot_id, create_open=None, unseen=0.0)


def seen(creation: Creation, snapshot_id: str) -> Creation:
    """The list shows it."""
    return replace(creation, snapshot_id=snapshot_id, unseen=0.0)
