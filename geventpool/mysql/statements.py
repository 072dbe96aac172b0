"""
What can be told of a statement by how it begins.

Only enough to know that nothing has to be undone; the rest is for the server to know.
"""

from __future__ import annotations

import re

__all__ = ["PLAIN", "chooses_database", "takes_role"]

_WORDS = (
    *("SELECT", "INSERT", "UPDATE", "DELETE", "REPLAC", "BEGIN", "COMMIT", "ROLLBA"),
    *("SAVEPO", "RELEAS", "SHOW", "EXPLAI", "DESCRI"),
)

#: The first six letters, in upper case, of statements that can change nothing of a
#: session but its transaction, its user variables and its locks by name. Whatever else
#: is sent, such as SET, USE or CALL, may have left anything behind.
PLAIN = frozenset((*_WORDS, *(word.encode() for word in _WORDS)))

_ROLE = re.compile(rb"\bSET\s+ROLE\b", re.IGNORECASE)
_USE = re.compile(rb"\bUSE\b", re.IGNORECASE)

#: A whole LOAD or CREATE PROCEDURE is not looked through.
_BEGINNING = 1000


def takes_role(statement: str | bytes | bytearray) -> bool:
    """
    Whether it may take a role, which no COM_RESET_CONNECTION gives back.
    """
    return _ROLE.search(_beginning(statement)) is not None


def chooses_database(statement: str | bytes | bytearray) -> bool:
    """
    Whether it may choose a database, which no COM_RESET_CONNECTION leaves.
    """
    return _USE.search(_beginning(statement)) is not None


def _beginning(statement: str | bytes | bytearray) -> bytes:
    text = statement[:_BEGINNING]
    return text.encode(errors="replace") if isinstance(text, str) else bytes(text)
