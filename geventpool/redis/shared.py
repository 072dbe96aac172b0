"""One connection that many greenlets use at the same time.

It writes queued calls, and reads all replies in order, whether or not their callers
still wait. Everything here runs in the hub or without switching.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate, islice
from time import monotonic
from typing import Any

from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    ResponseError,
    TimeoutError,
)

from geventpool.redis.busy_poll import BusyPoll
from geventpool.redis.call_queue import CallQueue
from geventpool.redis.calls import Call
from geventpool.redis.parting import Parting
from geventpool.redis.replies import MORE, reader_of
from geventpool.redis.steps import is_foreign, is_of_reply, is_raised_by
from geventpool.redis.stream_errors import as_redis_error, read_error, write_error
from geventpool.redis.transports import transport_of

__all__ = ["SharedConnection"]

#: The end of a connection whose calls are all answered.
QUIET = object()
#: There was an end, and nothing is left to do.
DONE = object()

#: Bytes that are written in one turn of the loop.
TURN = 256 * 1024
#: Seconds without traffic after which the connection is given back to the pool, which
#: checks and closes idle connections.
REST = 0.2
#: How many connections may end before a byte of a call is written.
TRIES = 3
#: Seconds by which the event loop's timers may be early.
EARLY = 0.001
#: The most reads before a connection is given up, for data that arrived while the event
#: loop was blocked.
LAST_READS = 16

#: Types of replies that are neither pushes nor errors.
_PLAIN = frozenset({bytes, str, int, float, bool, type(None)})

CLOSED_BY_SERVER = "Connection closed by server."


class SharedConnection:
    """A connection with its written and unanswered calls.

    A signal handler can raise between any two steps of its end. So *end* is set first,
    and :meth:`complete` does the rest. It is called again by the next call that is
    written, by the next turn of the loop and by the timer, until nothing is left to do.

    :param owner: the queue.
    :param parting: the loan of a connected connection of redis-py that has nothing to
        read.
    :param float renew_after: seconds after which it is given back even if it is used.
    """

    def __init__(self, owner: CallQueue, parting: Parting, renew_after: float) -> None:
        self._owner = owner
        self.parting = parting
        conn = self.conn = parting.conn
        self._transport = transport_of(conn)
        self._reader, self._push = reader_of(conn)
        #: calls that were written completely or in part, in the order of their replies
        self.sent: deque[Call] = deque()
        owner.sent = self.sent
        #: the unwritten bytes of the last of them
        self._rest: Any = b""
        #: how it ends: QUIET or an error; DONE; None: it is used
        self.end: Any = None
        #: whether nothing more is written, because it will be given back
        self.is_retiring = False
        #: whether the socket does not accept data at present
        self.is_blocked = False
        now = monotonic()
        self._arrived = self._blocked_since = now
        self._renew_at = now + renew_after
        self._loop = owner.hub.loop
        self.busy_poll = BusyPoll(self._loop, self.sent)
        self._readable: Any = None
        self._writable: Any = None
        self._timer: Any = None
        # Every close of the connection calls this method, so that no descriptor is
        # closed while the event loop watches it.
        conn.disconnect = self._disconnect
        try:
            self._watch()
        except BaseException:
            # Such as a MemoryError.
            self._stop_watching()
            self._stop_timer()
            raise

    def _watch(self) -> None:
        number = self._transport.fileno()
        self._readable = self._loop.io(number, 1)
        self._writable = self._loop.io(number, 2)
        self._readable.start(self._on_readable)
        self._start_timer(self._period())

    @property
    def is_quiet(self) -> bool:
        """Whether all calls are written and answered."""
        return not self.sent and not self._rest

    # Writing.

    def write(self) -> None:
        """Write queued calls, as far as the socket accepts data. Never switches."""
        if self.end is not None:
            self.complete()
            return
        if self.is_blocked:
            return
        try:
            if self._rest:
                self._write_rest()
            if not self._rest and not self.is_retiring and self._owner.out:
                self._write_queued()
        except BaseException as error:
            self.end = error
            self.lose(write_error(error))
            if not isinstance(error, Exception):
                raise

    def _write_rest(self) -> None:
        taken = self._transport.send(self._rest)
        if taken == len(self._rest):
            self._rest = b""
        else:
            self._rest = self._rest[taken:]
            self._wait_for_socket()

    def _write_queued(self) -> None:
        out, sent = self._owner.out, self.sent
        number, data = self._next_batch(out)
        known = len(sent)
        taken = None
        try:
            try:
                # First, because it can fail for want of memory. The calls stay in the
                # queue until they are written.
                sent.extend(out if number == len(out) else islice(out, number))
                taken = -1
                taken = self._transport.send(data)
            except Exception as error:
                if taken is None or is_raised_by(error, self._transport.send):
                    self._put_back(known)
                raise
            if taken < len(data):
                self._note_written(data, taken, known)
            self._leave_queue(len(sent) - known)
        except BaseException:
            # After a signal it is not known whether the calls were written, so they
            # must not be written again.
            for call in sent:
                if call in out:
                    out.remove(call)
            raise
        if taken < len(data):
            self._wait_for_socket()
        if out and not self.is_blocked:
            self._owner.schedule()

    def _next_batch(self, out: deque[Call]) -> tuple[int, bytes]:
        """Return how many calls are written in this turn of the loop, and their bytes.

        Notes the time at which they are written.
        """
        now = monotonic()
        if len(out) == 1:
            call = out[0]
            call.since = now
            return 1, call.data or b""
        pieces: list[Any] = [call.data for call in out]
        if sum(map(len, pieces)) >= TURN:
            ends = accumulate(map(len, pieces))
            del pieces[
                next(index for index, end in enumerate(ends, 1) if end >= TURN) :
            ]
        number = len(pieces)
        for call in out if number == len(out) else islice(out, number):
            call.since = now
        return number, b"".join(pieces)

    def _leave_queue(self, number: int) -> None:
        """Take the first *number* calls out of the queue."""
        out = self._owner.out
        if number == len(out):
            out.clear()
        else:
            for _ in range(number):
                out.popleft()

    def _note_written(self, data: bytes, taken: int, known: int) -> None:
        """Note that only the first *taken* bytes of *data* were written.

        :param int known: how many calls were written before.
        """
        if self._transport.repeats:
            self._rest = memoryview(data)[taken:]
            return
        sent = self.sent
        end = len(data)
        while len(sent) > known and end - len(sent[-1].data or b"") >= taken:
            # Nothing of it was written.
            end -= len(sent[-1].data or b"")
            sent.pop()
        self._rest = memoryview(data)[taken:end]

    def _put_back(self, known: int) -> None:
        """Leave the calls in the queue of which nothing was written.

        :param int known: how many calls were written before.
        """
        batch = [self.sent.pop() for _ in range(len(self.sent) - known)]
        for call in reversed(batch):
            call.tries = getattr(call, "tries", 0) + 1
            if call.tries >= TRIES:
                # It fails with this connection.
                self.sent.append(call)

    def _wait_for_socket(self) -> None:
        self.is_blocked = True
        self._blocked_since = monotonic()
        self._writable.start(self._on_writable)

    def _on_writable(self) -> None:
        """Go on to write, because the socket accepts data again. Runs in the hub."""
        self._writable.stop()
        self.is_blocked = False
        self.write()
        self.finish_if_due()

    # Reading.

    def _on_readable(self) -> None:
        """Read once. Runs in the hub."""
        try:
            self._read()
            if self.is_retiring:
                self.finish_if_due()
            if self._owner.ready:
                # In this callback and not in one for each, because a callback costs as
                # much as parsing a reply.
                self._owner.resume()
        except BaseException:
            # A signal. gevent stops a watcher whose callback raises.
            self._loop.run_callback(self._go_on)
            raise

    def _go_on(self) -> None:
        """Do what a callback has left undone that a signal ended. Runs in the hub."""
        self.complete()
        if self.end is None:
            self._go_on_watching()
            if self._timer is None:
                self._start_timer(EARLY)
        self._owner.schedule()
        self._owner.resume()

    def _read(self) -> bool:
        """Read at most one buffer; False: nothing was readable, or it has ended."""
        if self.end is not None:
            return False
        try:
            length = self._transport.receive()
            if length is None:
                return False
            if length == 0:
                self.lose(ConnectionError(CLOSED_BY_SERVER))
                return False
            now = self._arrived = monotonic()
            if len(self.sent) == 1:
                self.busy_poll.note(now)
            self._reader.feed(self._transport.buffer, 0, length)
            self._parse()
        except BaseException as error:
            # The reader may have parsed a reply that is not delivered.
            self.end = error
            self.lose(read_error(error))
            if not isinstance(error, Exception):
                raise
        return self.end is None

    def _parse(self) -> None:
        gets = self._reader.gets
        sent = self.sent
        # Calling methods for each reply would cost as much as parsing it.
        ready = self._owner.ready
        while True:
            try:
                reply = gets()
            except InvalidResponse:
                raise
            except Exception as error:
                if not is_of_reply(error):
                    raise
                reply = error
            kind = type(reply)
            if kind is not bytes and kind not in _PLAIN:
                if reply is MORE:
                    break
                if kind is self._push:
                    self._owner.pushed(self.conn, reply)
                    if self.end is not None:
                        return
                    continue
                if isinstance(reply, ResponseError) and sent:
                    self._check_error(reply, sent[0])
            if not sent:
                raise InvalidResponse("Protocol Error: a reply to no command")
            call = sent[0]
            if call.replies is None:
                call.replies = reply
                call.left = 0
            else:
                call.replies.append(reply)
                call.since = self._arrived
                call.left -= 1
                if call.left:
                    continue
            if call.waiter is not None:
                # First, because it can fail for want of memory.
                ready.append(call)
            del sent[0]
        room = self._owner.room
        if room.limit < room.size:
            room.serve()

    def _check_error(self, error: ResponseError, call: Call) -> None:
        """Refuse an error reply that does not belong to *call*."""
        if is_foreign(error, call.data or b""):
            raise InvalidResponse(f"Protocol Error: not the reply awaited: {error}")

    # Time.

    def _period(self) -> float:
        """Return the seconds until the next check of timeouts."""
        limit = self.conn.socket_timeout
        return REST if limit is None else min(REST, limit)

    def _start_timer(self, seconds: float) -> None:
        # It repeats, for a signal may end its callback before it begins.
        self._timer = self._loop.timer(max(seconds, EARLY), REST)
        self._timer.start(self._on_time, update=True)

    def _on_time(self) -> None:
        """Check timeouts, and give the connection back if idle. Runs in the hub."""
        try:
            self._stop_timer()
            due = REST if self.end is not None else self._look_at_time()
            self.finish_if_due()
            if self.end is None:
                self._start_timer(min(due, self._period()))
                self._go_on_watching()
            if self._owner.ready:
                self._owner.resume()
        except BaseException:
            # A signal.
            self._loop.run_callback(self._go_on)
            raise

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _go_on_watching(self) -> None:
        # If a signal came as a callback began, gevent has stopped its watcher.
        self._readable.start(self._on_readable)
        if self.is_blocked:
            self._writable.start(self._on_writable)

    def _look_at_time(self) -> float:
        """Fail late calls; return the seconds until the next may be late."""
        now = monotonic()
        if now >= self._renew_at:
            self.retire()
        if self.is_quiet and not self.is_blocked:
            if now - self._arrived >= REST - EARLY and not self._owner.out:
                self.is_retiring = True
            return REST
        limit = self.conn.socket_timeout
        if limit is None:
            return REST
        left = self._oldest() + limit - now
        if left > EARLY:
            return float(left)
        # The event loop may have been blocked, so the reply may already be readable.
        for _ in range(LAST_READS):
            if not self._read():
                break
        return REST if self.end is not None else self._give_up_late(limit)

    def _oldest(self) -> float:
        """Return the time since which the oldest unanswered call waits."""
        return self.sent[0].since if self.sent else self._blocked_since

    def _give_up_late(self, limit: float) -> float:
        if self.is_quiet and not self.is_blocked:
            return REST
        now = monotonic()
        if now - max(self._arrived, self._oldest()) >= limit - EARLY:
            # Nothing at all has arrived: the server hangs or is unreachable.
            self.lose(TimeoutError(f"Timeout reading from socket ({limit:g} s)"))
            return REST
        arriving = self._reader.has_data()
        for call in self.sent:
            left = call.since + limit - now
            if left > EARLY:
                return float(left)
            if not arriving and call.error is None:
                call.error = TimeoutError(f"Timeout reading from socket ({limit:g} s)")
                self._owner.wake(call)
            arriving = False
        return REST

    # The end.

    def retire(self, spoiled: bool = False) -> None:
        """Write nothing more, and give the connection back when all is answered.

        :param spoiled: close it then, because other calls would fail on it as well.
        """
        self.is_retiring = True
        self.parting.is_spoiled = self.parting.is_spoiled or spoiled

    def finish_if_due(self) -> None:
        """Give the connection back if it is retiring and quiet. Runs in the hub."""
        if self.is_retiring and self.end is None and self.is_quiet:
            self.end = QUIET
        self.complete()

    def lose(self, error: BaseException) -> None:
        """End the connection, and fail all written calls. Never switches."""
        if self.end is not DONE:
            self.end = error
            self.complete()

    def complete(self) -> None:
        """Do what is left to do if the connection has ended. Never switches."""
        end = self.end
        if end is None or end is DONE:
            return
        owner = self._owner
        # In case that a signal interrupts this. If it does before that, the timer is
        # left.
        owner.schedule()
        self._stop_watching()
        self._rest = b""
        if owner.shared is self:
            owner.ended(self, None if end is QUIET else as_redis_error(end))
        self._stop_timer()
        self.end = DONE

    def _disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Replaces the ``disconnect`` of redis-py's connection."""
        self.lose(ConnectionError("Connection was closed while a reply was awaited."))
        self._restore_disconnect()
        self.conn.disconnect(*args, **kwargs)

    def _stop_watching(self) -> None:
        self.busy_poll.close()
        for watcher in (self._readable, self._writable):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._restore_disconnect()

    def _restore_disconnect(self) -> None:
        """Make the connection's own method visible again, unless it is shared anew."""
        attributes = vars(self.conn)
        if attributes.get("disconnect") == self._disconnect:
            del attributes["disconnect"]
