"""Our pool's connector for connections that cost nothing."""

from __future__ import annotations

from benchmarks.peers import Dummy
from geventpool import Connector


class DummyConnector(Connector[Dummy]):
    """Opens dummies; everything else is the default."""

    def open(self) -> Dummy:
        """A new dummy, at once."""
        return Dummy()

    def close(self, conn: Dummy) -> None:
        """Do nothing: there is no socket."""

    def discard(self, conn: Dummy) -> None:
        """Do nothing: there is no socket."""
