"""What a rotation tells of itself while it runs, and to whom: the board, the metrics, and whoever comes besides."""

from __future__ import annotations

from typing import Protocol

from snaprotd.core.rotation import Rotation


class Observer(Protocol):
    """Who is told of what a rotation does. It must not raise."""

    def start_failed(self, rotation: Rotation) -> None:
        """A start request did not bring the server up; another one follows."""

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        """A snapshot was deleted, or could not be."""

    def back_on(self, server_id: str, seconds: float) -> None:
        """The server runs again, after it was held off for so long."""

    def finished(self, rotation: Rotation) -> None:
        """The rotation has ended."""


class Observers:
    """Tells several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def start_failed(self, rotation: Rotation) -> None:
        for one in self._observers:
            one.start_failed(rotation)

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        for one in self._observers:
            one.deleted(rotation, success=success)

    def back_on(self, server_id: str, seconds: float) -> None:
        for one in self._observers:
            one.back_on(server_id, seconds)

    def finished(self, rotation: Rotation) -> None:
        for one in self._observers:
            one.finished(rotation)
