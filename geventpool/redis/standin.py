"""What redis-py gets in the place of a connection when commands share one.

redis-py asks for a connection before it says which command is to be sent. So it gets
this, which decides when it sees the command: over the shared connection, or over one
of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from sys import exc_info
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import ConnectionError, DataError

from geventpool.errors import PoolError
from geventpool.redis.calls import Call

if TYPE_CHECKING:
    from geventpool.redis.multiplexer import Multiplexer
    from geventpool.redis.sharing import Sharing

__all__ = ["StandIn"]


class Packed(list[Any]):
    """The bytes of a pipeline that may go over a shared connection."""

    #: how many commands it has
    number = 0


class StandIn:
    """Takes the place of a connection for one command or pipeline of redis-py.

    It begins without a connection. As soon as it is told to do what can't be shared it
    takes a connection of its own, and then keeps to it until it is released. An
    attribute that is not known here is one of that connection: a new version of
    redis-py may make it slower, but not wrong.
    """

    #: what was sent last over the shared connection
    _call: Call | None = None
    #: which of its replies is read next
    _index = 0
    #: the connection of its own
    _own: Any = None
    #: why nothing was sent
    _refusal: BaseException | None = None

    # Nothing was prepared on this connection.
    himport_registry = None
    _himport_prepared: ClassVar[dict[str, int]] = {}
    _himport_reconciled_revision = 0

    def __init__(self, sharing: Sharing, multiplexer: Multiplexer) -> None:
        self._sharing = sharing
        self._multiplexer = multiplexer

    # Sending.

    def send_command(self, *args: Any, **options: Any) -> None:
        """Send one command.

        May switch.
        """
        if self._own is None:
            sharing = self._sharing
            if args[0] in sharing.names or sharing.allows(args):
                data = sharing.pack(args)
                if len(data) <= sharing.max_size:
                    try:
                        self._call = self._multiplexer.send(data, 1)
                    except PoolError as error:
                        self._refusal = error
                        raise
                    return
            self._promote(args)
        self._own.send_command(*args, **options)

    def pack_command(self, *args: Any) -> Any:
        """Return the bytes of a command; this does not send it."""
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
        """Send what was packed before.

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
                # The error is the caller's alone, with all that its frames hold.
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
        if isinstance(reply, (Exception, list)):
            first = reply[0] if type(reply) is list and reply else reply
            # Of an array redis-py's parsers raise only such a first item.
            kind = Exception if first is reply else ConnectionError
            if isinstance(first, kind):
                raise self._sharing.error_of(first, self._multiplexer)
        return reply

    # The life of a connection, as redis-py sees it.

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Give up what was sent. Others go on to use the shared connection.

        redis-py calls this after an error, before it tries again. An error that a pool
        raises when it is asked for a connection ends redis-py's attempts; so it is
        raised once more here.
        """
        refusal, self._refusal = self._refusal, None
        if refusal is not None and exc_info()[1] is refusal:
            raise refusal
        self._abandon()
        if self._own is not None:
            self._own.disconnect(*args, **kwargs)

    def connect(self) -> None:
        """Do nothing, as long as there is no connection of its own.

        May switch.
        """
        if self._own is not None:
            self._own.connect()

    def should_reconnect(self) -> bool:
        """Return whether redis-py is to connect anew after the command."""
        return self._own is not None and bool(self._own.should_reconnect())

    def retire(self) -> Any:
        """End this: return the connection of its own, or None. Never switches."""
        call = self._call
        if call is not None:
            self._call = None
            if call.left:
                self._multiplexer.abandon(call)
        own, self._own = self._own, None
        return own

    def _abandon(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.left:
            self._multiplexer.abandon(call)

    # What redis-py asks about a connection. None of this needs one.

    @property
    def pid(self) -> int:
        """The process this is."""
        return os.getpid()

    @property
    def retry(self) -> Any:
        """The retries of redis-py; shared by all."""
        return self._sharing.template.retry if self._own is None else self._own.retry

    @property
    def db(self) -> Any:
        """The number of the database."""
        return self._sharing.template.db if self._own is None else self._own.db

    @property
    def host(self) -> Any:
        """The name of the server; an attribute of connections over TCP alone."""
        shared = self._multiplexer.shared
        return self._sharing.template.host if shared is None else shared.conn.host

    @property
    def port(self) -> Any:
        """The port of the server; an attribute of connections over TCP alone."""
        shared = self._multiplexer.shared
        return self._sharing.template.port if shared is None else shared.conn.port

    def get_protocol(self) -> Any:
        """Return the version of the protocol."""
        return self._facts.get_protocol()

    def extract_connection_details(self) -> Any:
        """Return what redis-py logs after a failure."""
        return self._facts.extract_connection_details()

    @property
    def _facts(self) -> Any:
        """A connection that can be asked: its own, or one that is never connected."""
        return self._sharing.template if self._own is None else self._own

    def __getattr__(self, name: str) -> Any:
        # Connections over Unix sockets have no host.
        if name.startswith("__") or name in ("host", "port"):
            raise AttributeError(name)
        if self._own is None:
            self._promote(())
        return getattr(self._own, name)

    def __repr__(self) -> str:
        kind = "sharing" if self._own is None else f"with {self._own!r}"
        return f"<{type(self).__name__} {kind}>"
