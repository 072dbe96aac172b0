"""Commands after whose replies the server may close the connection.

A reply proves for a moment that the connection is usable, but not the reply to such a
command: the news of the end may come later than the next loan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["EndNoter"]

#: Names of commands, as redis-py gets them from callers, that never end a connection.
_lasting: set[str] = set()
#: The most names that are kept.
_MOST = 1000


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
        if type(args[0]) is not str or args[0] not in _lasting:
            self._examine(*args)
        return self._pack(*args)

    def _examine(self, name: Any, *args: Any) -> None:
        words = _words(name)
        if words == ["CLIENT"] and args:
            # The name tells only half of it.
            words += _words(args[0])
            name = None
        if words in (["QUIT"], ["CLIENT", "KILL"]):
            self._note()
        elif type(name) is str and len(_lasting) < _MOST:
            _lasting.add(name)


def _words(text: Any) -> list[str]:
    """Return the words of a name in upper case, as the server compares them."""
    if isinstance(text, (bytes, bytearray, memoryview)):
        text = bytes(text).decode("latin-1")
    return str(text).upper().split()
