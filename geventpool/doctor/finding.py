"""What the doctor found: one check, its result, and what to change."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ERROR", "OK", "WARNING", "Finding"]

OK = "ok"
WARNING = "warning"
ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    :param str check: what was looked at.
    :param str level: ``"ok"``, ``"warning"`` or ``"error"``.
    :param str text: what was found.
    :param str advice: what to change; empty: nothing.
    """

    check: str
    level: str
    text: str
    advice: str = ""
