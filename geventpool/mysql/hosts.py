"""The order in which several hosts are tried.

It holds names, ports and the times of failures. It makes no connections.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from geventpool.policies import check_int, safe_repr

__all__ = ["MAX_PORT", "Host", "Hosts", "is_name", "split_host"]

DEFAULT_PORT = 3306
MAX_PORT = 65535
ORDERS = ("listed", "random")

#: Seconds during which a host that failed is tried after the others.
FAIL_TIMEOUT = 30.0


@dataclass(frozen=True)
class Host:
    """The address of a server.

    :param name: host name or address.
    :param int port: TCP port.
    :raises TypeError: the name is no string, or the port is no int.
    :raises ValueError: the name is invalid, or the port is not from 1 to 65535.
    """

    name: str
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(
                f"a host's name must be a string, not {safe_repr(self.name)}"
            )
        if not is_name(self.name):
            raise ValueError(
                f"a host's name must be neither empty nor contain a space or a "
                f"control character, not {safe_repr(self.name)}"
            )
        if check_int("a host's port", self.port, 1) > MAX_PORT:
            raise ValueError(
                f"a host's port must be at most {MAX_PORT}, not {safe_repr(self.port)}"
            )

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}"


class Hosts:
    """The hosts of a pool.

    :param hosts: each ``"name"``, ``"name:port"``, ``"[v6]:port"`` or a pair of both.
    :param order: ``"listed"``: try them in the given order; ``"random"``: in any order.
    :raises TypeError: *hosts* is no iterable of hosts.
    :raises ValueError: *hosts* is empty, or *order* is unknown.
    """

    def __init__(self, hosts: Iterable[Any], order: str = "listed") -> None:
        if isinstance(hosts, (str, bytes)) or not isinstance(hosts, Iterable):
            raise TypeError(f"hosts must be a list of hosts, not {safe_repr(hosts)}")
        self._hosts = [_host(each) for each in hosts]
        if not self._hosts:
            raise ValueError("hosts must name at least one host")
        if order not in ORDERS:
            raise ValueError(
                f"host_order must be one of {ORDERS}, not {safe_repr(order)}"
            )
        self._order = order
        self._failed: dict[Host, float] = {}
        self._preferred: Host | None = None

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def in_order(self, now: float) -> list[Host]:
        """Return all hosts in the order in which to try them. Never switches.

        :param now: seconds of a monotonic clock.
        """
        hosts = list(self._hosts)
        if self._order == "random":
            random.shuffle(hosts)
        hosts.sort(
            key=lambda host: now - self._failed.get(host, -FAIL_TIMEOUT) < FAIL_TIMEOUT
        )
        if self._preferred is not None:
            hosts.sort(key=lambda host: host != self._preferred)
        return hosts

    def failed(self, host: Host, now: float) -> None:
        """Note that *host* could not be reached. Never switches.

        Without this, each attempt to connect would wait for the timeout of a dead host.
        """
        self._failed[host] = now
        if host == self._preferred:
            self._preferred = None

    def served(self, host: Host, only: bool) -> None:
        """Note that *host* has the wanted role. Never switches.

        :param only: only one host can have the role: try it first from now on.
        """
        self._failed.pop(host, None)
        if only:
            self._preferred = host


def is_name(text: str) -> bool:
    """Whether *text* can be the name of a host."""
    return bool(text) and text.isprintable() and " " not in text


def split_host(text: str) -> Host:
    """Parse ``name``, ``name:port`` or ``[v6]:port``.

    :raises ValueError: the port is no number from 1 to 65535, or the name is empty.
    """
    name, separator, port = text, "", ""
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not bracket or separator not in ("", ":"):
            raise ValueError(f"not a host: {safe_repr(text)}")
    elif text.count(":") == 1:
        name, separator, port = text.partition(":")
    if not is_name(name) or (separator and not _is_port(port)):
        raise ValueError(f"not a host with a port from 1 to 65535: {safe_repr(text)}")
    return Host(name, int(port)) if separator else Host(name)


def _is_port(text: str) -> bool:
    # Other scripts have decimal digits too, and int() refuses a very long number.
    digits = text.isascii() and text.isdecimal() and len(text.lstrip("0")) <= 5
    return digits and 0 < int(text) <= MAX_PORT


def _host(thing: Any) -> Host:
    if isinstance(thing, Host):
        return thing
    if isinstance(thing, str):
        return split_host(thing)
    if isinstance(thing, tuple) and [type(part) for part in thing] == [str, int]:
        return Host(*thing)
    raise TypeError(
        f"a host must be 'name:port' or ('name', port), not {safe_repr(thing)}"
    )
