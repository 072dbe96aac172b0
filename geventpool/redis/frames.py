"""Finds the ends of RESP3 messages in received bytes."""

from __future__ import annotations

__all__ = ["are_pushes"]

PUSH = b">"
_AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}
_BLOBS = (b"$", b"!", b"=")


def are_pushes(data: bytes) -> bool:
    """Whether *data* consists of pushes only. The last may be incomplete."""
    position = 0
    while position < len(data):
        if data[position : position + 1] != PUSH:
            return False
        try:
            end = _end(data, position)
        except ValueError:
            return False
        if end is None:
            return True
        position = end
    return True


def _end(data: bytes, position: int) -> int | None:
    """Return the end of the message that begins at *position*; None: incomplete.

    :raises ValueError: this is not RESP3.
    """
    left = 1
    while left:
        line = data.find(b"\r\n", position)
        if line < 0:
            return None
        kind, rest = data[position : position + 1], data[position + 1 : line]
        position = line + 2
        left -= 1
        if kind in _AGGREGATES:
            left += max(int(rest), 0) * _AGGREGATES[kind] + (kind == b"|")
        elif kind in _BLOBS and int(rest) >= 0:
            position += int(rest) + 2
    return position if position <= len(data) else None
