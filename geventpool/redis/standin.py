"""The stand-in for a connection, for commands that may share one.

redis-py takes a connection before it knows which command to send. So it gets a
stand-in, which decides when it gets the command: it uses the shared connection, or
takes one of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from sys import _getframe, exc_info
from typing import Any, ClassVar

from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError, DataError

from geventpool.errors import PoolError
from geventpool.redis.callers import is_cluster
from geventpool.redis.calls import Call, call_of
from geventpool.redis.multiplexer import Multiplexer
from geventpool.redis.sharing import Sharing

__all__ = ["StandIn", "kind_for"]


#: types of replies that may be, or begin with, an error
_MAY_RAISE = (Exception, list)


class Packed(list[Any]):
    """The bytes of a pipeline that may go over a shared connection."""

    #: the number of commands
    number = 0


#: Stands for the call when none is under way any more.
_NONE = call_of(b"", 0, False)


class StandIn(Call):
    """Replaces a connection for one command or pipeline of redis-py.

    It begins without a connection. For an operation that cannot be shared it takes a
    connection of its own, and uses that until it is released. An attribute that is not
    defined here is one of that connection: :func:`kind_for` adds all of these. So a new
    version of redis-py may make it slower, but not wrong.

    It is itself the call of its first command, because nearly always that is the only
    one. :meth:`Sharing.stand_in` makes one.
    """

    # No __getattr__, with which the interpreter would search for each attribute anew.
    __slots__ = (
        "queue",
        #: the call under way; None: it is this object, or nothing was sent
        "other",
        #: the index of the next reply to a pipeline; -1: it is no pipeline
        "index",
        #: the connection of its own
        "own",
        #: the retries of redis-py, the same for all
        "retry",
        #: the number of the database
        "db",
        #: the name and port of the server; only TCP connections have them
        "host",
        "port",
    )

    queue: Multiplexer
    other: Call | None
    index: int
    own: Any
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
        queue = self.queue
        sharing: Any = queue.source
        name = args[0]
        if (
            self.data is None
            and type(name) is str
            and name in sharing.names
            and not (sharing.decodes and NEVER_DECODE in options)
        ):
            pack = sharing.fast_pack
            # A loop, because it costs less than a search.
            for each in args:
                if type(each) is memoryview:
                    # hiredis would send the wrong bytes of a view that skips some.
                    pack = sharing.pack
            try:
                data = pack(args)
            except TypeError:
                # An argument that redis-py converts, or refuses with its own message.
                data = sharing.pack(args)
            if (
                len(data) <= sharing.small
                and len(queue.out) + len(queue.sent) < queue.room.limit
            ):
                # As Multiplexer.queue() does, without waiting.
                self.data = data
                self.left = 1
                queue.out.append(self)
                if queue.flushing.asked is None:
                    queue.write_soon(self)
                return
        elif self.own is None and sharing.shares(args, options):
            data = sharing.pack(args)
        else:
            data = None
        self._send(data, args, options)

    def _send(
        self, data: bytes | None, args: Sequence[Any], options: dict[str, Any]
    ) -> None:
        """Send a command that is not the first, is large, or has to wait.

        May switch.

        :param data: its bytes; None: it may not be shared.
        """
        if data is not None and len(data) <= self._sharing.max_size:
            self._queue(data, 1, -1)
            return
        if self.own is None:
            self._promote(args)
        self.own.send_command(*args, **options)

    def _queue(self, data: bytes, count: int, index: int) -> None:
        """Queue a call of *count* commands.

        May switch.
        """
        # First, so that it is abandoned with this object wherever a signal interrupts.
        call = self.other = call_of(data, count, index >= 0)
        self.data = data
        self.index = index
        try:
            self.queue.queue(call, count)
        except PoolError as error:
            self.refusal = error
            raise

    def pack_command(self, *args: Any) -> Any:
        """Return the bytes of a command, without sending it."""
        return self._sharing.template.pack_command(*args)

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> Any:
        """Return the bytes of several commands, for :meth:`send_packed_command`."""
        commands = list(commands)
        sharing = self._sharing
        if self.own is None and sharing.fits(commands):
            packed = Packed(sharing.template.pack_commands(commands))
            packed.number = len(commands)
            if sharing.has_room_for(packed, len(commands)):
                return packed
        if self.own is None:
            self._promote(())
        return self.own.pack_commands(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send the result of :meth:`pack_command` or :meth:`pack_commands`.

        May switch.
        """
        if self.own is None and isinstance(command, Packed):
            self._queue(b"".join(command), command.number, 0)
            return
        if self.own is None:
            self._promote(())
        self.own.send_packed_command(command, check_health)

    def _promote(self, args: Sequence[Any]) -> None:
        """Take a connection of its own.

        May switch.
        """
        self._abandon()
        self.data = b""
        sharing = self._sharing
        try:
            self.own = sharing.own_connection(self.queue, args)
        except Exception as error:
            self.refusal = error
            raise
        self.retry = self.own.retry
        self.db = self.own.db
        sharing.prepare(self.own, args)

    @property
    def _sharing(self) -> Sharing:
        source: Any = self.queue.source
        return source  # type: ignore[no-any-return]

    # Receiving.

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        """Return the next reply to what was sent.

        May switch.
        """
        if self.other is not None or disable_decoding or self.data is None:
            return self._read_other(disable_decoding, options)
        if self.left or self.error is not None:
            try:
                self.queue.wait(self)
            except BaseException:
                self._give_up(self)
                raise
        reply = self.replies
        if type(reply) is not bytes and isinstance(reply, _MAY_RAISE):
            self._raise_error(reply)
        return reply

    def _read_other(self, disable_decoding: bool, options: dict[str, Any]) -> Any:
        """Return the next reply, which is not the decoded one to a first command.

        May switch.
        """
        if self.own is not None:
            return self.own.read_response(disable_decoding, **options)
        call = self if self.other is None else self.other
        if call is _NONE or call.data is None:
            raise ConnectionError("There is no reply to read: nothing was sent.")
        if call.left or call.error is not None:
            try:
                self.queue.wait(call)
            except BaseException:
                self._give_up(call)
                raise
        if disable_decoding and self._sharing.decodes:
            raise DataError("a reply of a shared connection was decoded already")
        reply = call.replies
        if call is not self and self.index >= 0:
            reply = reply[self.index]
            self.index += 1
        if isinstance(reply, _MAY_RAISE):
            self._raise_error(reply)
        return reply

    def _give_up(self, call: Call) -> None:
        """Note that the wait for *call* was interrupted or has failed."""
        # Do not keep the error, which refers to the frames of the caller.
        call.error = None
        self.other = _NONE
        self.refusal = getattr(call, "refusal", None)

    def _raise_error(self, reply: Any) -> None:
        """Raise *reply*, or its first item, if it is an error for the caller."""
        first = reply[0] if type(reply) is list and reply else reply
        # redis-py's parsers raise the first item of an array only if it is a
        # ConnectionError.
        kind = Exception if first is reply else ConnectionError
        if isinstance(first, kind):
            raise self._sharing.error_of(first, self.queue)

    # The life of a connection, as redis-py sees it.

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Abandon the present call. The shared connection stays in use.

        redis-py calls this after an error, before it retries. An error of the pool must
        not be retried, so it is raised again here. Not in a cluster's client, which
        then asks where the keys are now, and raises the error itself.
        """
        refusal: BaseException | None = getattr(self, "refusal", None)
        self.refusal = None
        if refusal is not None and exc_info()[1] is refusal:
            if not is_cluster(_getframe(1)):
                raise refusal
        self._abandon()
        if self.own is not None:
            self.own.disconnect(*args, **kwargs)

    def connect(self) -> None:
        """Connect the connection of its own, if there is one.

        May switch.
        """
        if self.own is not None:
            self.own.connect()

    def should_reconnect(self) -> bool:
        """Return whether redis-py must reconnect after the command."""
        return self.own is not None and bool(self.own.should_reconnect())

    def retire(self) -> Any:
        """End the loan; return the connection of its own, or None. Never switches."""
        if self.left or self.other is not None:
            self._abandon()
        own = self.own
        if own is not None:
            self.own = None
        return own

    def _abandon(self) -> None:
        call = self if self.other is None else self.other
        self.other = _NONE
        if call.left:
            self.queue.abandon(call)

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
        return self._sharing.template if self.own is None else self.own

    def own_attribute(self, name: str) -> Any:
        """Return an attribute of the connection of its own.

        May switch.
        """
        if self.own is None:
            self._promote(())
        return getattr(self.own, name)

    def __repr__(self) -> str:
        kind = "sharing" if self.own is None else f"with {self.own!r}"
        return f"<StandIn {kind}>"


class _OfOwn:
    """An attribute of the connection of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, it: StandIn | None, kind: type) -> Any:
        return self if it is None else it.own_attribute(self._name)


#: Attributes of a stand-in that no connection may have.
_NAMES = (*Call.__slots__, "queue", "other", "index", "own", "retire", "own_attribute")


@lru_cache(maxsize=32)
def _kind_with(names: frozenset[str]) -> type[StandIn]:
    return type("StandInOfKind", (StandIn,), {name: _OfOwn(name) for name in names})


def kind_for(template: Any) -> type[StandIn] | None:
    """Return a class of stand-ins that have all attributes of *template*.

    Connections with the same attributes share one.

    :return: None: an attribute has a name that stand-ins use for something else.
    """
    if any(hasattr(template, name) for name in _NAMES):
        return None
    return _kind_with(
        frozenset(
            name
            for name in dir(template)
            if not name.startswith("__") and not hasattr(StandIn, name)
        )
    )
