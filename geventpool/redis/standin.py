"""The stand-in for a connection, for commands that may share one.

redis-py takes a connection before it knows which command to send. So it gets a
stand-in, which decides when it gets the command: it uses the shared connection, or
takes one of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from sys import exc_info
from typing import Any, ClassVar

from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError, DataError

from geventpool.errors import PoolError
from geventpool.redis.calls import Call
from geventpool.redis.multiplexer import Multiplexer
from geventpool.redis.sharing import Sharing

__all__ = ["StandIn", "kind_for", "stand_in_for"]


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
    defined here is one of that connection: :func:`kind_for` adds all of these. So a new
    version of redis-py may make it slower, but not wrong.

    :func:`stand_in_for` makes one.
    """

    # No __getattr__, with which the interpreter would search for each attribute anew.
    __slots__ = (
        "_sharing",
        "_multiplexer",
        #: the last call on the shared connection
        "_call",
        #: the index of its next reply
        "_index",
        #: the connection of its own
        "_own",
        #: the error because of which nothing was sent
        "_refusal",
        #: the retries of redis-py, the same for all
        "retry",
        #: the number of the database
        "db",
        #: the name and port of the server; only TCP connections have them
        "host",
        "port",
    )

    _sharing: Sharing
    _multiplexer: Multiplexer
    _call: Call | None
    _index: int
    _own: Any
    _refusal: BaseException | None
    retry: Any
    db: Any
    host: Any
    port: Any

    # Nothing was prepared on this connection.
    himport_registry = None
    _himport_prepared: ClassVar[dict[str, int]] = {}
    _himport_reconciled_revision = 0

    # Sending.

    def send_command(self, *args: Any, **options: Any) -> None:
        """Send one command.

        May switch.
        """
        if self._own is None:
            sharing = self._sharing
            data = None
            name = args[0]
            if sharing.decodes and NEVER_DECODE in options:
                # Replies of a shared connection are decoded.
                pass
            elif type(name) is str and name in sharing.names:
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
        if type(reply) is not bytes and isinstance(reply, _MAY_RAISE):
            self._raise_error(reply)
        return reply

    def _raise_error(self, reply: Any) -> None:
        """Raise *reply*, or its first item, if it is an error for the caller."""
        first = reply[0] if type(reply) is list and reply else reply
        # redis-py's parsers raise the first item of an array only if it is a
        # ConnectionError.
        kind = Exception if first is reply else ConnectionError
        if isinstance(first, kind):
            raise self._sharing.error_of(first, self._multiplexer)

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
        call = self._call
        if call is not None:
            self._call = None
            if call.left:
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

    def own_attribute(self, name: str) -> Any:
        """Return an attribute of the connection of its own.

        May switch.
        """
        if self._own is None:
            self._promote(())
        return getattr(self._own, name)

    def __repr__(self) -> str:
        kind = "sharing" if self._own is None else f"with {self._own!r}"
        return f"<StandIn {kind}>"


class _OfOwn:
    """An attribute of the connection of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, it: StandIn | None, kind: type) -> Any:
        return self if it is None else it.own_attribute(self._name)


@lru_cache(maxsize=32)
def _kind_with(names: frozenset[str]) -> type[StandIn]:
    return type("StandInOfKind", (StandIn,), {name: _OfOwn(name) for name in names})


def kind_for(template: Any) -> type[StandIn]:
    """Return a class of stand-ins that have all attributes of *template*.

    Connections with the same attributes share one.
    """
    return _kind_with(
        frozenset(
            name
            for name in dir(template)
            if not name.startswith("__") and not hasattr(StandIn, name)
        )
    )


def stand_in_for(sharing: Sharing, multiplexer: Multiplexer) -> StandIn:
    """Return a stand-in without a connection.

    It is no constructor, because one is called for each command, and the interpreter
    calls a function in half of the time.
    """
    it: StandIn = sharing.kind()
    template = sharing.template
    it._sharing = sharing
    it._multiplexer = multiplexer
    it._call = it._own = it._refusal = None
    it._index = 0
    it.retry = template.retry
    it.db = template.db
    place = multiplexer.place
    if place is not None:
        it.host, it.port = place
    return it
