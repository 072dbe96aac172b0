"""One TLS context for all connections of a pool.

PyMySQL builds a context for every connection, even to a server without TLS: 20 to
35 ms of loading certificates each time, in which no other greenlet runs. Here it is
made once, in a thread, and for the mode "TLS if the server has it" not before a server
offers it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from gevent import get_hub

__all__ = ["TLSContexts"]


class TLSContexts:
    """Makes each context once and keeps it.

    Keyed by what it is made of, because changing credentials may change that too.
    """

    def __init__(self) -> None:
        self._made: dict[object, Any] = {}

    def __call__(self, options: Any, make: Callable[[Any], Any]) -> Any:
        """The context for *options*. May switch.

        :param options: PyMySQL's: an ``SSLContext``, or a dict, which is empty for "TLS
            if the server has it".
        :param make: makes a context of such a dict.
        :return: something with the ``wrap_socket`` of an ``SSLContext``.
        :raises OSError: certificates that can't be read; and whatever *make* raised.
        """
        if not isinstance(options, dict):
            return options
        if not options:
            return _WhenOffered(lambda: self._get(options, make))
        return self._get(options, make)

    def _get(self, options: dict[str, Any], make: Callable[[Any], Any]) -> Any:
        # A forked child inherits contexts half made by a thread it has not got.
        key = (os.getpid(), repr(sorted(options.items())))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = get_hub().threadpool.spawn(_outcome, make, options)
        context, error = cast("tuple[Any, Exception | None]", made.get())
        if error is not None:
            # Perhaps the file is there next time.
            self._made.pop(key, None)
            raise error
        return context


def _outcome(make: Callable[[Any], Any], options: Any) -> tuple[Any, Exception | None]:
    # The hub would print an error that ends the work of a thread.
    try:
        return make(options), None
    except Exception as error:
        return None, error


class _WhenOffered:
    """Stands for a context until a server offers TLS."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get

    def wrap_socket(self, sock: Any, server_hostname: str | None = None) -> Any:
        return self._get().wrap_socket(sock, server_hostname=server_hostname)
