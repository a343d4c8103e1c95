"""Structured logs: one JSON object a line, to a stream.

Talks to the stream. A log that cannot be written, because its disk is full or its reader has gone,
fails nobody: mail goes on without it.
"""

from __future__ import annotations

import logging
from typing import TextIO

import structlog

__all__ = ["log_to"]


def log_to(stream: TextIO, level: str) -> None:
    """Send every log line of this process from `level` on ("debug" ... "error") to `stream`."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(stream),
    )


class _Lines:
    """What structlog calls a logger: a method for each level."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write one line, if that can be done."""
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            return

    debug = info = warning = error = critical = exception = msg
