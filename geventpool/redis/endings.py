"""Commands after whose replies the server may close the connection.

A reply proves for a moment that the connection is usable, but not the reply to such a
command: the news of the end may come later than the next loan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ENDING", "EndNoter"]

#: Names of these commands, as redis-py gets them from callers.
ENDING = frozenset({"QUIT", "quit", "CLIENT KILL"})


class EndNoter:
    """Packs the commands of one connection, and notes those that may end it.

    :param packer: what packs them.
    :param note: called before such a command is sent. Must not switch.
    """

    __slots__ = ("_note", "_pack")

    def __init__(self, packer: Any, note: Callable[[], object]) -> None:
        self._pack = packer.pack
        self._note = note

    def pack(self, *args: Any) -> Any:
        """Return the bytes of one command. Never switches."""
        # To compare bytes with text is an error under "python -bb".
        if type(args[0]) is str and args[0] in ENDING:
            self._note()
        return self._pack(*args)
