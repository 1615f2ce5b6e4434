"""The socket on which the pages are served: a port, or a file that others of this machine may be given."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snaprotd.core.errors import SnaprotdError

BACKLOG = 4096
"""Who waits at the door; the kernel sees to them."""

MODE = 0o660
"""Of a Unix socket: for our user and our group, such as that of a reverse proxy."""

Address = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""


@dataclass(frozen=True)
class Listener:
    """An open one."""

    socket: socket.socket
    path: Path | None = None
    inode: tuple[int, int] = (0, 0)
    """Device and number of the Unix socket's file that is ours."""

    @property
    def is_there(self) -> bool:
        """False where somebody has removed the socket's file: nobody can come in any more."""
        return self.path is None or _inode_at(self.path) == self.inode

    def url(self, *, tls: bool) -> str:
        """Where the pages are."""
        if self.path is not None:
            return f"unix:{self.path}"
        host, port = self.socket.getsockname()[:2]
        return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        """What has another's file at our place meanwhile keeps it."""
        if self.path is not None and self.is_there:
            with suppress(OSError):
                self.path.unlink()
        self.socket.close()


def open_listener(address: Address) -> Listener:
    """Raises `SnaprotdError` where the address cannot be used now. May wait for a name server."""
    if isinstance(address, Path):
        return _open_file(address)
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return Listener(socket.create_server((host, port), family=family, backlog=BACKLOG))
    except OSError as error:
        raise _unusable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", error) from error


def _open_file(path: Path) -> Listener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        os.fchmod(listening.fileno(), MODE)  # so that it is never open to more, whatever the umask
        listening.bind(os.fspath(path))
        path.chmod(MODE)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _unusable(f"unix:{path}", error) from error
    except BaseException:
        listening.close()
        raise
    return Listener(listening, path, _inode_at(path))


def _make_way(path: Path) -> None:
    """Remove the socket that a process of ours has left there. Raises `SnaprotdError` where it is anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise SnaprotdError(
            f"cannot listen on unix:{path}: a file is there that is not ours. Remove it, or choose another path with "
            "the key `listen`"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # a full queue is somebody who lives
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise _unusable(f"unix:{path}", OSError(98, "Address already in use"))


def _inode_at(path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _unusable(shown: str, error: OSError) -> SnaprotdError:
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror
    return SnaprotdError(f"cannot listen on {shown}: {reason}. Choose another address with the key `listen`")
