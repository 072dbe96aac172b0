"""Servers of this process that a storm can end and start again."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.rounds import Scale


class Storm:
    """
    A server to be stormed; a context manager.

    :param kind: ``redis``, ``mysql`` or ``echo``: a greenlet of this process.
    """

    def __init__(self, kind: str) -> None:
        if kind == "echo":
            self._server: Any = import_module("tests.peers").Echo()
        else:
            servers = import_module("tests.servers")
            name = {"redis": "RedisServer", "mysql": "MariaDBServer"}[kind]
            self._server = getattr(servers, name)()
        self.kind = kind

    @property
    def address(self) -> dict[str, Any]:
        """Where it is, as its drivers want it."""
        if self.kind == "mysql":
            options: dict[str, Any] = self._server.client_options
            return options
        return {"host": self._server.host, "port": self._server.port}

    def stop(self) -> None:
        """End it; every connection is closed. **May switch.**"""
        self._server.stop()

    def start(self) -> None:
        """Run it again where it was. **May switch.**"""
        if self.kind == "echo":
            self._server.__enter__()
        else:
            self._server.start()

    def __enter__(self) -> Storm:
        self._server.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self.kind == "echo":
            self._server.stop()
        else:
            self._server.__exit__(*exc_info)


def kinds(scale: Scale) -> tuple[str, ...]:
    """The servers that are stormed at this scale: tests need no more than one."""
    return ("echo",) if scale.name == "tiny" else ("redis", "mysql", "echo")
