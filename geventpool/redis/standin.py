"""The stand-in for a connection, for commands that may share one.

redis-py takes a connection before it knows which command to send. So it gets a
stand-in, which decides when it gets the command: it uses the shared connection, or
takes one of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from sys import exc_info
from typing import Any, ClassVar

from redis.exceptions import ConnectionError, DataError

from geventpool.errors import PoolError
from geventpool.redis.calls import Call
from geventpool.redis.multiplexer import Multiplexer
from geventpool.redis.sharing import Sharing

__all__ = ["StandIn"]


#: types of replies that may be, or begin with, an error
_MAY_RAISE = (Exception, list)


class Packed(list[Any]):
    """The bytes of a pipeline that may go over a shared connection."""

    #: the number of commands
    number = 0


class StandIn:
    """Replaces a connection for one command or pipeline of redis-py.

    It begins without a connection. For an operation that cannot be shared it takes a
    connection of its own, and uses that until it is released. An attribute that is not
    defined here is one of that connection. So a new version of redis-py may make it
    slower, but not wrong.
    """

    #: the last call on the shared connection
    _call: Call | None = None
    #: the index of its next reply
    _index = 0
    #: the connection of its own
    _own: Any = None
    #: the error because of which nothing was sent
    _refusal: BaseException | None = None

    # Nothing was prepared on this connection.
    himport_registry = None
    _himport_prepared: ClassVar[dict[str, int]] = {}
    _himport_reconciled_revision = 0

    def __init__(self, sharing: Sharing, multiplexer: Multiplexer) -> None:
        self._sharing = sharing
        self._multiplexer = multiplexer
        #: the retries of redis-py, the same for all
        self.retry = sharing.template.retry
        #: the number of the database
        self.db = sharing.template.db

    # Sending.

    def send_command(self, *args: Any, **options: Any) -> None:
        """Send one command.

        May switch.
        """
        if self._own is None:
            sharing = self._sharing
            data = None
            if args[0] in sharing.names:
                try:
                    data = sharing.fast_pack(args)
                except TypeError:
                    # An argument that redis-py converts, or refuses with its own
                    # message.
                    data = sharing.pack(args)
            elif sharing.allows(args):
                data = sharing.pack(args)
            if data is not None and len(data) <= sharing.max_size:
                try:
                    self._call = self._multiplexer.send(data, 1)
                except PoolError as error:
                    self._refusal = error
                    raise
                return
            self._promote(args)
        self._own.send_command(*args, **options)

    def pack_command(self, *args: Any) -> Any:
        """Return the bytes of a command, without sending it."""
        return self._sharing.template.pack_command(*args)

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> Any:
        """Return the bytes of several commands, for :meth:`send_packed_command`."""
        commands = list(commands)
        if self._own is None and self._sharing.fits(commands):
            packed = Packed(self._sharing.template.pack_commands(commands))
            packed.number = len(commands)
            if self._sharing.has_room_for(packed, len(commands)):
                return packed
        if self._own is None:
            self._promote(())
        return self._own.pack_commands(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send the result of :meth:`pack_command` or :meth:`pack_commands`.

        May switch.
        """
        if self._own is None and isinstance(command, Packed):
            self._index = 0
            try:
                self._call = self._multiplexer.send(b"".join(command), command.number)
            except PoolError as error:
                self._refusal = error
                raise
            return
        if self._own is None:
            self._promote(())
        self._own.send_packed_command(command, check_health)

    def _promote(self, args: Sequence[Any]) -> None:
        """Take a connection of its own.

        May switch.
        """
        self._abandon()
        try:
            self._own = self._sharing.own_connection(self._multiplexer, args)
        except Exception as error:
            self._refusal = error
            raise
        self.retry = self._own.retry
        self.db = self._own.db
        self._sharing.prepare(self._own, args)

    # Receiving.

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        """Return the next reply to what was sent.

        May switch.
        """
        call = self._call
        if call is None:
            if self._own is None:
                raise ConnectionError("There is no reply to read: nothing was sent.")
            return self._own.read_response(disable_decoding, **options)
        if call.left or call.error is not None:
            try:
                self._multiplexer.wait(call)
            except BaseException as error:
                # Do not keep the error, which refers to the frames of the caller.
                self._call = call.error = None
                if call.is_refused:
                    self._refusal = error
                raise
        if disable_decoding and self._sharing.decodes:
            raise DataError("a reply of a shared connection was decoded already")
        reply = call.replies
        if call.count > 1:
            reply = reply[self._index]
            self._index += 1
        if isinstance(reply, _MAY_RAISE):
            first = reply[0] if type(reply) is list and reply else reply
            # redis-py's parsers raise the first item of an array only if it is a
            # ConnectionError.
            kind = Exception if first is reply else ConnectionError
            if isinstance(first, kind):
                raise self._sharing.error_of(first, self._multiplexer)
        return reply

    # The life of a connection, as redis-py sees it.

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Abandon the present call. The shared connection stays in use.

        redis-py calls this after an error, before it retries. An error of the pool must
        not be retried, so it is raised again here.
        """
        refusal, self._refusal = self._refusal, None
        if refusal is not None and exc_info()[1] is refusal:
            raise refusal
        self._abandon()
        if self._own is not None:
            self._own.disconnect(*args, **kwargs)

    def connect(self) -> None:
        """Connect the connection of its own, if there is one.

        May switch.
        """
        if self._own is not None:
            self._own.connect()

    def should_reconnect(self) -> bool:
        """Return whether redis-py must reconnect after the command."""
        return self._own is not None and bool(self._own.should_reconnect())

    def retire(self) -> Any:
        """End the loan; return the connection of its own, or None. Never switches."""
        call, self._call = self._call, None
        if call is not None and call.left:
            self._multiplexer.abandon(call)
        own = self._own
        if own is not None:
            self._own = None
        return own

    def _abandon(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.left:
            self._multiplexer.abandon(call)

    # Attributes of a connection that redis-py reads. They need no connection.

    @property
    def pid(self) -> int:
        """The id of this process."""
        return os.getpid()

    @property
    def host(self) -> Any:
        """The name of the server. Only TCP connections have it."""
        shared = self._multiplexer.shared
        return self._sharing.template.host if shared is None else shared.conn.host

    @property
    def port(self) -> Any:
        """The port of the server. Only TCP connections have it."""
        shared = self._multiplexer.shared
        return self._sharing.template.port if shared is None else shared.conn.port

    def get_protocol(self) -> Any:
        """Return the version of the protocol."""
        return self._facts.get_protocol()

    def extract_connection_details(self) -> Any:
        """Return the details that redis-py logs after a failure."""
        return self._facts.extract_connection_details()

    @property
    def _facts(self) -> Any:
        """The connection to read attributes from: its own, or the template."""
        return self._sharing.template if self._own is None else self._own

    def __getattr__(self, name: str) -> Any:
        # Unix socket connections have no host.
        if name.startswith("__") or name in ("host", "port"):
            raise AttributeError(name)
        if self._own is None:
            self._promote(())
        return getattr(self._own, name)

    def __repr__(self) -> str:
        kind = "sharing" if self._own is None else f"with {self._own!r}"
        return f"<{type(self).__name__} {kind}>"
