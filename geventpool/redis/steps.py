"""Whether an error reply belongs to the command that it would be delivered to.

A stream that has lost bytes makes the server read commands that nobody has sent. Over
a shared connection all later replies would then go to the wrong callers. The server
names the command of which it complains.
"""

from __future__ import annotations

import re

from geventpool.redis.replies import MORE, ReplyReader

__all__ = ["is_foreign"]

_NAMED = re.compile(
    r"unknown command [`'](?P<unknown>.*?)[`']"
    r"|wrong number of arguments for [`'](?P<wrong>.*?)[`']",
    re.IGNORECASE | re.DOTALL,
)
_OUT_OF_STEP = "Protocol error"

#: Their replies may quote anything.
_SCRIPTS = frozenset(
    {b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FCALL_RO"}
)


def is_foreign(error: Exception, data: bytes) -> bool:
    """Return whether *error* is about a command that is not in *data*.

    :param data: what was sent, one command or more.
    """
    text = str(error)
    if text.startswith(_OUT_OF_STEP):
        return True
    named = _NAMED.match(text)
    if named is None:
        return False
    # Of a subcommand the server says "object|encoding".
    name = (named["unknown"] or named["wrong"] or "").partition("|")[0]
    sent = _names(data)
    return name.upper().encode() not in sent and sent.isdisjoint(_SCRIPTS)


def _names(data: bytes) -> set[bytes]:
    """Return the names of the commands in *data*, in upper case."""
    reader = ReplyReader(str, bytes)
    reader.feed(data, 0, len(data))
    names = set()
    while (command := reader.gets()) is not MORE:
        names.add(command[0].upper())
    return names
