"""The option ``auto_pipeline``: how commands share connections."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from geventpool.policies import check_int

__all__ = ["DEFAULT_MAX_IN_FLIGHT", "AutoPipeline"]

#: The default of ``max_in_flight``: commands without a reply on one shared connection.
DEFAULT_MAX_IN_FLIGHT = 1000


@dataclass(frozen=True)
class AutoPipeline:
    """How the commands of many greenlets share connections.

    :param int connections: how many connections are shared. The commands of one
        greenlet always go over the same one. Default 1.
    :param int max_size: bytes of a command or pipeline above which it takes a
        connection of its own, so that it does not hold up others. Default 256 KiB.
    :param share: names of further commands that may share a connection, such as
        ``"JSON.GET"``. Each must answer once, must not block the connection and must
        not change its state.
    :param never_share: names of commands that take a connection of their own, such as
        ``"EVAL"`` if your scripts are slow.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of its range.
    """

    connections: int = 1
    max_size: int = 256 * 1024
    share: Collection[str] = ()
    never_share: Collection[str] = ()

    def __post_init__(self) -> None:
        check_int("connections", self.connections, 1)
        check_int("max_size", self.max_size, 0)
        for label in ("share", "never_share"):
            names = getattr(self, label)
            if isinstance(names, str) or not isinstance(names, Collection):
                raise TypeError(f"{label} must be a collection of names, not {names!r}")
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"{label} must contain strings, not {name!r}")

    def check_places(self, max_connections: int) -> None:
        """Refuse a pool that has no place for a command that needs its own connection.

        :raises ValueError: *max_connections* is too small.
        """
        if max_connections <= self.connections:
            raise ValueError(
                f"max_connections must be at least {self.connections + 1} with "
                f"auto_pipeline={self.connections}: commands that can't share need a "
                f"connection of their own; it is {max_connections!r}"
            )

    @staticmethod
    def of(value: Any) -> AutoPipeline | None:
        """Return the policy that ``auto_pipeline=value`` means; None: off.

        :raises TypeError: *value* is of the wrong type.
        :raises ValueError: a number is negative.
        """
        if isinstance(value, AutoPipeline):
            return value
        if isinstance(value, bool):
            return AutoPipeline() if value else None
        if not isinstance(value, int):
            raise TypeError(
                "auto_pipeline must be True, False, a whole number or an "
                f"AutoPipeline, not {value!r}"
            )
        if value < 0:
            raise ValueError(f"auto_pipeline must be at least 0, not {value!r}")
        return AutoPipeline(connections=value) if value else None
