"""In step or not: whether an error reply belongs to the command that would get it.

If a stream has lost bytes, the server reads commands that were never sent. On a shared
connection all later replies would then reach the wrong callers. The error replies of
the server name the command that it has read.
"""

from __future__ import annotations

import re
from types import FrameType
from typing import Any

from geventpool.redis.replies import MORE, ReplyReader

__all__ = ["is_foreign", "is_of_reply", "is_raised_by"]

_NAMED = re.compile(
    r"unknown command [`'](?P<unknown>.*?)[`']"
    r"|wrong number of arguments for [`'](?P<wrong>.*?)[`']",
    re.IGNORECASE | re.DOTALL,
)
_OUT_OF_STEP = "Protocol error"

#: Commands whose error replies may quote anything.
_SCRIPTS = frozenset(
    {b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FCALL_RO"}
)


def is_foreign(error: Exception, data: bytes) -> bool:
    """Return whether *error* is about a command that is not in *data*.

    :param data: the bytes of one command or more.
    """
    text = str(error)
    named = _NAMED.match(text)
    if named is None and not text.startswith(_OUT_OF_STEP):
        return False
    sent = _names(data)
    if not sent.isdisjoint(_SCRIPTS):
        return False
    if named is None:
        return True
    # The server names a subcommand as "object|encoding".
    name = (named["unknown"] or named["wrong"] or "").partition("|")[0]
    return name.upper().encode() not in sent


def is_of_reply(error: Exception) -> bool:
    """Return whether *error*, of a reader, is about a reply that was read completely.

    It cannot be decoded, or redis-py cannot make the error that it tells of. Otherwise
    a signal handler has raised *error*, and it is unknown whether a reply was read.
    """
    module = str(_origin(error).f_globals.get("__name__"))
    return isinstance(error, UnicodeDecodeError) or module.startswith("redis.")


def is_raised_by(error: Exception, method: Any) -> bool:
    """Return whether *method* has raised *error*, and not a signal handler in it."""
    return _origin(error).f_code is method.__code__


def _origin(error: Exception) -> FrameType:
    """Return the frame that has raised *error*."""
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame: FrameType = trace.tb_frame
    return frame


def _names(data: bytes) -> set[bytes]:
    """Return the names of the commands in *data*, in upper case."""
    reader = ReplyReader(str, bytes)
    reader.feed(data, 0, len(data))
    names = set()
    while (command := reader.gets()) is not MORE:
        names.add(command[0].upper())
    return names
