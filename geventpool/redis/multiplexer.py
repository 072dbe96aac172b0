"""The queue of calls for a shared connection.

It takes calls, limits the number without a reply, opens a connection when there is
none, and wakes the callers. A greenlet of its own opens connections, so that killing a
caller does not interrupt it.
"""

from __future__ import annotations

import os
from collections import deque
from sys import exc_info
from time import monotonic
from typing import Any

import gevent
from gevent import getcurrent
from gevent.exceptions import ConcurrentObjectUseError

from geventpool.errors import PoolExhaustedError
from geventpool.extension import copy_error
from geventpool.redis.call_queue import CallQueue
from geventpool.redis.calls import Call
from geventpool.redis.errand import Errand
from geventpool.redis.parting import Parting
from geventpool.redis.room import Room
from geventpool.redis.shared import SharedConnection
from geventpool.redis.source import Source

__all__ = ["UNIT", "Multiplexer", "place_of"]

#: Bytes for which a call takes one unit of room. A command takes at least one.
UNIT = 16 * 1024
#: So many callers go on before the event loop handles its sockets.
MOST = 50


def place_of(conn: Any) -> tuple[Any, Any] | None:
    """Return name and port of the server; None: it is at a Unix socket."""
    try:
        return conn.host, conn.port
    except AttributeError:
        return None


class BeginAgain(BaseException):
    """Makes an opener, which waits for a connection, begin to wait anew."""


class Multiplexer(CallQueue):
    """Sends the calls of many greenlets over one connection.

    :param source: supplies the connections and the limits.
    :param int max_in_flight: commands that may be queued or unanswered.
    :param hub: the hub of the greenlets that call.
    """

    def __init__(self, source: Source, max_in_flight: int, hub: Any) -> None:
        #: supplies the connections
        self.source = source
        self.hub = hub
        #: name and port of the server that it was connected to last
        self.place = source.place
        self._begin()
        self.room = Room(self, max_in_flight, hub, source.name)

    def _begin(self) -> None:
        """Set the initial state, at construction and in a forked child."""
        self._pid = os.getpid()
        self.out: deque[Call] = deque()
        self.sent: deque[Call] = deque()
        self.ready: list[Call] = []
        #: those whose callers run before the event loop does, the next one last
        self._batch: list[Call] = []
        #: the one that a caller has switched to; None: it was the hub
        self._following: Call | None = None
        #: writes the queue
        self.flushing = Errand(self.hub.loop, self._flush)
        self._waking = Errand(self.hub.loop, self._resume_soon)
        #: the present connection; None: none is open
        self.shared: SharedConnection | None = None
        self._opener: Any = None
        self._refusal: BaseException | None = None

    # Sending.

    def units(self, size: int, count: int) -> int:
        """Return how much room a call of *size* bytes and *count* commands takes."""
        return count if size <= UNIT else max(count, -(-size // UNIT))

    def queue(self, call: Call, count: int) -> None:
        """Queue *call*, which has *count* commands. May switch to wait for room.

        :raises PoolExhaustedError: there was no room in time.
        """
        if self._refusal is not None:
            raise copy_error(self._refusal)
        source = self.source
        units = self.units(len(call.data or b""), count)
        try:
            self.room.take(call, units, source.timeout, source.max_waiting)
        except PoolExhaustedError as error:
            raise source.explained(error) from None
        if self.flushing.asked is None:
            self.write_soon(call)

    def write_soon(self, call: Call) -> None:
        """Let the queue be written, whose last call is *call*. Never switches.

        If this fails, the stand-in abandons the call when it is released.
        """
        shared = self.shared
        if shared is None:
            call.since = monotonic()
            self.schedule()
        elif self.sent or self.ready or self._batch or shared.is_blocked:
            self.schedule()
        else:
            self._write_now(shared)

    def _write_now(self, shared: SharedConnection) -> None:
        """Write at once, because no other greenlet is about to send."""
        if self._is_usable(shared):
            shared.write()
            shared.busy_poll.begin()
        if self.out:
            self.schedule()

    def _is_usable(self, shared: SharedConnection) -> bool:
        if not self.source.is_current(shared.conn):
            shared.retire()
        return not shared.is_retiring

    def schedule(self) -> None:
        """Let the hub write the queue in this turn of the loop."""
        self.flushing.ask()

    def _flush(self) -> None:
        """Write the queue, or start to open a connection. Runs in the hub."""
        self.flushing.asked = None
        try:
            self._write_or_open()
        except Exception as error:
            # Such as a MemoryError: nothing else would write the queue.
            self._fail_queued(error)
            raise
        except BaseException:
            # Interrupted by a signal.
            self.schedule()
            raise

    def _write_or_open(self) -> None:
        if self.room.waiters:
            # A signal may have kept room from being served when it became free.
            self.room.serve()
        shared = self.shared
        if shared is not None:
            if self._is_usable(shared):
                shared.write()
            else:
                shared.finish_if_due()
        elif self.out:
            self._note_time()
            if self._opener is None or self._opener.dead:
                self._open_soon()

    def _note_time(self) -> None:
        """Note since when the calls wait that were queued in this turn of the loop."""
        now = monotonic()
        for call in reversed(self.out):
            if getattr(call, "since", None) is not None:
                break
            call.since = now

    # Waiting.

    def wait(self, call: Call) -> None:
        """Wait until *call* is answered.

        May switch.

        :raises BaseException: why there is no reply; or what interrupted the wait. The
            call is then abandoned.
        :raises ConcurrentObjectUseError: another greenlet waits for it.
        """
        if call.waiter is not None:
            raise ConcurrentObjectUseError("another greenlet waits for the reply")
        try:
            # Other code may switch to this greenlet as well.
            while call.left and call.error is None:
                if self.shared is None:
                    self._sleep_without_connection(call)
                else:
                    self._sleep(call)
        except BaseException:
            call.waiter = None
            self.abandon(call)
            if self._following is not None:
                # The switch to it may have failed.
                self.wake(self._following)
            raise
        call.waiter = None
        if call.error is not None:
            raise call.error

    def _sleep_without_connection(self, call: Call) -> None:
        def opener_for_call() -> Any:
            # A caller that was answered does not wait, even if it has not yet run.
            return self._opener if call.left and call.error is None else None

        with self.source.waiting_for(opener_for_call):
            opener = self._opener
            if opener is not None and self.source.waits_in_vain(opener):
                # This greenlet holds one of the connections. The pool finds that out
                # when the opener begins to wait.
                opener.kill(BeginAgain, block=False)
            self._sleep(call)

    def _sleep(self, call: Call) -> None:
        # A function of its own: coverage does not see what follows a switch in a frame.
        call.waiter = getcurrent()
        batch = self._batch
        waiter = None
        if batch:
            # The hub would switch to it next: this way it takes half of the switches.
            following = self._following = batch[-1]
            # No call of a function, after which a signal may interrupt this.
            del batch[-1]
            waiter = following.waiter
        if waiter is None:
            self.hub.switch()
        else:
            waiter.switch()

    def abandon(self, call: Call) -> None:
        """Note that this greenlet waits for *call* no more; others may. Never switches.

        If no byte of it was written, it is not sent. Otherwise its reply is dropped.
        """
        out = self.out
        if call.left and call.error is None and call.waiter is None and call in out:
            if self.room.waiters:
                self.schedule()
            place = out.index(call)
            # No call between these lines, after which a signal may interrupt.
            call.units = 1
            del out[place]
            self.room.serve()

    def wake(self, call: Call) -> None:
        """Let the hub switch to the caller, if it waits. Never switches."""
        if call.waiter is not None:
            self.ready.append(call)
            self._wake_ready()

    def _wake_ready(self) -> None:
        """Let the hub switch to the callers in *ready*. Never switches."""
        self._waking.ask()

    def _resume_soon(self) -> None:
        self._waking.asked = None
        self.resume()

    def resume(self) -> None:
        """Switch to the callers in *ready* that still wait. Runs in the hub.

        Not always to all: the event loop handles its sockets in between.
        """
        try:
            ready, batch = self.ready, self._batch
            if not batch:
                # If the server has nothing to answer, half of them: it answers what
                # these send while the others go on.
                half = (len(ready) + 1) // 2
                number = MOST if self.sent else min(half, MOST)
                batch.extend(reversed(ready[:number]))
                del ready[:number]
            while batch:
                self._switch_to_last(batch)
            self._following = None
        finally:
            if self.ready or self._batch:
                # Not all in this turn of the loop, or interrupted by a signal.
                self._wake_ready()

    def _switch_to_last(self, batch: list[Call]) -> None:
        # No call of a function, after which a signal may interrupt this.
        call = batch[-1]
        del batch[-1]
        waiter = call.waiter
        if waiter is not None:
            try:
                waiter.switch()
            except BaseException:  # pragma: no cover (counted for the greenlet)
                # A greenlet without error handling of its own, whose parent is the hub.
                self.hub.handle_error(waiter, *exc_info())
                if call.waiter is waiter and not waiter.dead:
                    # The switch itself has failed.
                    self.wake(call)

    def _fail_first(
        self, calls: deque[Call], error: BaseException, refused: bool = False
    ) -> None:
        """Fail the first of *calls*; *refused*: because there is no connection."""
        call = calls[0]
        if self.room.waiters:  # pragma: no cover (a signal)
            self.schedule()
        copied = copy_error(error)
        # Only the hub switches to its caller, later.
        self.wake(call)
        # No call between these lines, after which a signal may interrupt.
        if call.error is None:
            call.error = copied
        if refused:
            call.refusal = call.error
        call.units = 1
        del calls[0]

    def _fail_all(self, calls: deque[Call], error: BaseException) -> None:
        while calls:
            self._fail_first(calls, error)
        self.room.serve()

    def _refuse_first(self, error: BaseException) -> None:
        """Fail the first call of the queue, because there is no connection."""
        self._fail_first(self.out, error, refused=True)
        self.room.serve()

    def _fail_queued(self, error: BaseException) -> None:
        while self.out:
            self._refuse_first(error)

    # Opening.

    def _open_soon(self) -> None:
        opener = self._opener = gevent.Greenlet(self._open)
        # A link, because "finally" is not run if the greenlet is killed before it has
        # started.
        opener.rawlink(self._opener_ended)
        opener.start()

    def _opener_ended(self, opener: Any) -> None:
        if self._opener is opener:
            self._opener = None
            if self.out:
                # It has failed, with or without a connection to share.
                self.schedule()

    def _open(self) -> None:
        """Get a connection for the calls in the queue.

        May switch.
        """
        source = self.source
        while self.out:
            try:
                conn = source.acquire(self._patience(monotonic()))
            except BeginAgain:
                continue
            except PoolExhaustedError as error:
                if type(error) is PoolExhaustedError and self._refuse_oldest(error):
                    continue
                self._fail_queued(source.explained(error))
                return
            except (Exception, gevent.Timeout) as error:
                self._fail_queued(source.explained(error))
                return
            try:
                self._share(conn)
            except BaseException as error:
                # Such as a MemoryError. The waiters get another one.
                if self.shared is None:
                    source.drop(conn, error)
                raise
            return

    def _patience(self, now: float) -> float | None:
        """Return how long the first call in the queue may still wait."""
        timeout = self.source.timeout
        if timeout is None:
            return None
        self._note_time()
        return max(0.0, min(self.out[0].since + timeout - now, timeout))

    def _refuse_oldest(self, error: PoolExhaustedError) -> bool:
        """Fail the calls whose timeout has passed; True: others may wait longer."""
        timeout = self.source.timeout
        if not timeout:
            return False
        self._note_time()
        now = monotonic()
        translated = self.source.explained(error)
        while self.out and self.out[0].since + timeout <= now + 0.001:
            self._refuse_first(translated)
        return bool(self.out)

    def _share(self, conn: Any) -> None:
        """Make *conn* the shared connection. Never switches."""
        try:
            parting = Parting(self.source, conn)
            self.shared = SharedConnection(self, parting, self.source.renew_after)
            self.place = place_of(conn)
        except Exception as error:
            # It was closed after it was acquired.
            self.source.drop(conn, error)
            self._fail_queued(self.source.explained(error))
            return
        self._flush()

    # The end of a connection.

    def pushed(self, conn: Any, reply: Any) -> None:
        """Handle a push of the server."""
        self.source.pushed(conn, reply)

    def take(self) -> Any:
        """Return the connection for this greenlet alone, when all calls are answered.

        May switch. Calls that are sent meanwhile wait for the next connection.

        :return: None: there is no connection, or another greenlet has taken it.
        """
        shared = self.shared
        if shared is None or shared.parting.taker is not None:
            return None
        return shared.parting.take(self.renew)

    def ended(self, shared: SharedConnection, error: BaseException | None) -> None:
        """Part with the connection. The calls that are not written stay in the queue.

        Can be repeated if a signal interrupts it. Never switches.

        :param error: for the written calls; None: all are answered.
        """
        # In a forked child, copies of the parent's greenlets must not be woken.
        if self._pid == os.getpid():
            if error is not None:
                self._fail_all(shared.sent, error)
            if self.ready:
                # The reading may have been interrupted after a reply.
                self._wake_ready()
            shared.parting.part(error)
        self.shared = None

    def renew(self, spoiled: bool = False) -> None:
        """Give the connection back when all calls are answered. Never switches.

        Calls that are sent meanwhile wait for the next connection.

        :param spoiled: close it, because other calls would fail on it as well.
        """
        if self.shared is not None:
            self.shared.retire(spoiled)
            # The rest is done in the hub, whichever greenlet has called.
            self.schedule()

    def close(self, ended: BaseException, closed: BaseException) -> None:
        """Send nothing more. Written calls are still answered. Never switches.

        :param ended: raised for the calls in the queue.
        :param closed: raised for later ones.
        """
        self._refusal = closed
        self._fail_queued(ended)
        self.room.refuse(ended)
        self.renew()

    def forget(self) -> None:
        """Set the initial state in a forked child.

        The core pool has closed the child's copy of the connection.
        """
        self._begin()
        self.room = Room(self, self.room.size, self.hub, self.source.name)
