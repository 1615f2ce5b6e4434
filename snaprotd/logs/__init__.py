"""Logs on standard error: JSON lines where nobody watches, coloured text on a terminal, and never the token."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from snaprotd.logs import outlet
from snaprotd.logs.outlet import PATIENCE, Aside, Outlet
from snaprotd.logs.redaction import redactor as redactor

_outlet: Outlet | None = None
"""What `never_wait` has put in the way of standard error."""


def never_wait() -> None:
    """From now on nobody waits for the reader of standard error: not the log, and nothing else that is written there.

    Where standard error is no descriptor, as under a test's capture, nothing changes. A process that ends at once, past
    what Python does at the end, is to `flush` before.
    """
    global _outlet
    stream = sys.stderr
    try:
        descriptor = stream.fileno()
        _outlet = Outlet(descriptor, _teller(stream), most_lines=outlet.MOST_LINES, most_bytes=outlet.MOST_BYTES)
    except (OSError, ValueError):
        return
    sys.stderr = io.TextIOWrapper(Aside(descriptor, _outlet), stream.encoding, stream.errors, line_buffering=True)
    atexit.register(flush)


def flush(patience: float = PATIENCE) -> None:
    """Wait until what was said is written, but not for longer than so many seconds."""
    if _outlet is not None:
        _outlet.flush(patience)


def dropped() -> int:
    """How many lines were dropped, because their reader did not read or could not be reached."""
    return _outlet.dropped if _outlet is not None else 0


def _teller(stream: TextIO) -> Callable[[int], bytes]:
    processors = [*_SHARED, *_ending(stream)]

    def tell(lines: int) -> bytes:
        event: Any = {"event": "log lines were dropped", "count": lines}
        for processor in processors:
            event = processor(None, "warning", event)
        return f"{event}\n".encode(errors="replace")

    return tell


_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
"""What each line is given, whoever writes it."""


def configure(*, stream: TextIO | None = None, level: str = "INFO") -> None:
    """Send structlog's and the libraries' own logs to `stream` (standard error) in one form."""
    stream = stream or sys.stderr
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    to_stream = logging.StreamHandler(stream)
    to_stream.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_ending(stream)],
        )
    )
    logging.raiseExceptions = False  # it would print the arguments of a library's broken message as they are
    root = logging.getLogger()
    root.handlers[:] = [to_stream]
    root.setLevel(level)
    for chatty in (
        "apscheduler",
        "httpx",
        "httpcore",
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "aiosqlite",
        "asyncio",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _ending(stream: TextIO) -> list[Processor]:
    if stream.isatty():
        plain, colours = structlog.dev.plain_traceback, not os.environ.get("NO_COLOR")
        return [_redacted(structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain))]
    # Tracebacks without the locals of each frame: those are where a token would be.
    traces = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    return [traces, _redacted(structlog.processors.JSONRenderer(default=str))]


def _redacted(render: Callable[..., Any]) -> Processor:
    def write(logger: WrappedLogger, name: str, event: EventDict) -> str:
        return redactor.clean(str(render(logger, name, event)))

    return write
