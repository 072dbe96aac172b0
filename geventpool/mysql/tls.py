"""One TLS context for all connections of a pool.

PyMySQL builds a context for every connection, even to a server without TLS. This loads
certificates for 20 to 35 ms, during which no other greenlet runs. Here the context is
made once, in a thread. In the mode "TLS if the server has it", it is made when a server
first offers TLS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from gevent import get_hub

__all__ = ["TLSContexts"]


class TLSContexts:
    """Makes the context for each set of options once, and keeps it.

    Credentials that change may bring other options.
    """

    def __init__(self) -> None:
        self._made: dict[object, Any] = {}

    def __call__(self, options: Any, make: Callable[[Any], Any]) -> Any:
        """Return the context for *options*. May switch.

        :param options: as for PyMySQL: an ``SSLContext``, or a dict. An empty dict
            means "TLS if the server has it".
        :param make: makes a context from a dict of options.
        :return: an object with the ``wrap_socket`` method of an ``SSLContext``.
        :raises OSError: certificates cannot be read.
        :raises Exception: raised by *make*.
        """
        if not isinstance(options, dict):
            return options
        if not options:
            return _WhenOffered(lambda: self._get(options, make))
        return self._get(options, make)

    def _get(self, options: dict[str, Any], make: Callable[[Any], Any]) -> Any:
        # A forked child may inherit a context that a thread of its parent was making,
        # which never becomes complete there.
        key = (os.getpid(), repr(sorted(options.items())))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = get_hub().threadpool.spawn(_outcome, make, options)
        context, error = cast("tuple[Any, Exception | None]", made.get())
        if error is not None:
            # The next attempt may find the file.
            self._made.pop(key, None)
            raise error
        return context


def _outcome(make: Callable[[Any], Any], options: Any) -> tuple[Any, Exception | None]:
    # The error is returned, because the hub would print one that is raised in a thread.
    try:
        return make(options), None
    except Exception as error:
        return None, error


class _WhenOffered:
    """Makes the context when it is first used, which is when a server offers TLS."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get

    def wrap_socket(self, sock: Any, server_hostname: str | None = None) -> Any:
        return self._get().wrap_socket(sock, server_hostname=server_hostname)
