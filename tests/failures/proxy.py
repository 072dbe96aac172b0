"""A TCP proxy for loopback that does harm on demand.

Everything passes until a :class:`Fault` is set, for the connections that are open, for
those to come, or for both; and set again, while bytes are on their way. It runs in
greenlets of this process, so its client must be cooperative too.

    with Proxy("127.0.0.1", server.port) as proxy:
        proxy.disturb(Fault(delay=0.05))
"""

from __future__ import annotations

import random
import select
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.monkey import get_original

from tests.pauses import real_time, sample
from tests.peers import Peer, reset_on_close

#: The two ways through a proxy: what clients send, and what they are sent.
UP, DOWN = "up", "down"

#: Bytes taken at a time.
CHUNK = 65536

#: Bytes of a client's data that the kernel keeps for a slow reader.
NARROW = 4096

#: Seconds after which a pool may take an attempt to connect for one that hangs: half of
#: the pools' own, which count from the beginning of the attempt and not from here.
PROMPT = 0.025

#: Of Linux's struct tcp_info: tcpi_last_data_recv, after 8 bytes and 11 numbers.
_TCP_INFO = struct.Struct("52xI")


@dataclass(frozen=True)
class Fault:
    """What is done to what passes; by default nothing.

    :param float delay: seconds that each piece is held back.
    :param float jitter: up to so many seconds more, at random for each piece.
    :param cut_after: hang up on both sides once so many bytes more have passed one way.
    :param reset_after: the same with a reset in place of a regular end.
    :param bool silent: nothing passes, everything stays open; what was held back passes
        once the silence is over.
    :param trickle: pass so many bytes at a time, one time each millisecond.
    :param int drop: lose the next so many bytes that come one way.
    :param bool mute: connections to come are accepted and never answered; the server
        does not learn of them.
    :param str way: the way of *cut_after*, *reset_after*, *drop* and *trickle*:
        ``"up"``, ``"down"``, or ``"both"``, and then each way has its own count.
    """

    delay: float = 0.0
    jitter: float = 0.0
    cut_after: int | None = None
    reset_after: int | None = None
    silent: bool = False
    trickle: int | None = None
    drop: int = 0
    mute: bool = False
    way: str = "both"

    def concerns(self, way: str) -> bool:
        """Whether what is counted is counted this way."""
        return self.way in ("both", way)


CALM = Fault()


class Proxy(Peer):
    """Passes everything on, both ways, except for what its faults do.

    :param host: of the server behind it.
    :param port: of that server.
    :param chance: where jitter comes from.

    ``links`` are the connections open now. ``dials`` is how many clients have connected
    so far, ``most_dialling`` how many were at their first answer at the same time, at
    most.
    """

    def __init__(
        self, host: str, port: int, chance: random.Random | None = None
    ) -> None:
        super().__init__()
        self.target = host, port
        self.links: set[Link] = set()
        self.fault = CALM
        self.most_dialling = 0
        self.chance = chance or random.Random(0)
        self._listens = Event()
        self._listens.set()

    @property
    def dials(self) -> int:
        """How many connections were accepted so far."""
        return self.accepted

    def disturb(
        self, fault: Fault, *, present: bool = True, future: bool = True
    ) -> None:
        """Let *fault* act from now on, in the place of what acted before.

        :param present: on the connections that are open.
        :param future: on those to come.
        """
        if future:
            self.fault = fault
        if present:
            for link in list(self.links):
                link.disturb(fault)

    def calm(self) -> None:
        """Let everything pass again, and listen again."""
        self.disturb(CALM)
        if not self._listens.is_set():
            self.listen()

    def refuse(self) -> None:
        """Stop listening: who connects is refused. What is open stays."""
        self._listens.clear()
        # Closing alone would take effect only when nobody waits in accept any more.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen(self) -> None:
        """Listen again, on the same port."""
        self._listener = self._listen()
        self._listens.set()

    def _accept(self) -> None:
        # One greenlet for all its life, so that none is new after a storm.
        while self._listens.wait():
            with suppress(OSError):
                super()._accept()
            # The descriptors of this process may have run out.
            sample(0.001)

    def reset_all(self) -> None:
        """Close every connection with a reset, at once."""
        for link in list(self.links):
            link.reset()

    def pool_sockets(self) -> int:
        """How many of its sockets are open at the client's end too.

        One that the client has closed is no longer the client's, although its end has
        not been read here.
        """
        return _still_open(self._sockets)

    def dialling(self) -> int:
        """Return how many clients have connected just now and have no answer yet.

        Clients that the server keeps waiting for longer are left out: a pool may open
        another connection beside them.
        """
        since = time.monotonic() - PROMPT
        return _still_open(
            link.client
            for link in self.links
            if not link.answered and link.began > since
        )

    def orphans(self) -> int:
        """How many clients have gone whose end the server has not been told of."""
        return self.open - self.pool_sockets()

    def stop(self) -> None:
        super().stop()
        self.links.clear()

    def talk(self, sock: Any) -> None:
        if self.fault.mute:
            # Until the client goes away, whatever it says.
            while sock.recv(CHUNK):
                pass
            return
        link = Link(self, sock)
        self.links.add(link)
        self.most_dialling = max(self.most_dialling, self.dialling())
        try:
            link.run()
        finally:
            self.links.discard(link)


def silence(sock: Any) -> float:
    """Return for how many seconds the peer has sent nothing.

    It may have connected, and sent its first bytes, long before a busy process accepts
    it.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    (milliseconds,) = _TCP_INFO.unpack(info)
    return float(milliseconds) / 1000


class Link:
    """One connection through the proxy.

    :param proxy: which it belongs to.
    :param client: the accepted socket.
    """

    def __init__(self, proxy: Proxy, client: Any) -> None:
        self._proxy = proxy
        self.client = client
        self._server: Any = None
        self.began = time.monotonic() - silence(client)
        #: has the server said anything?
        self.answered = False
        self._changed = Event()
        self.disturb(proxy.fault)

    def disturb(self, fault: Fault) -> None:
        """Let *fault* act from now on; its bytes are counted from here."""
        self.fault = fault
        self._left = {
            way: (fault.cut_after if fault.reset_after is None else fault.reset_after)
            for way in (UP, DOWN)
            if fault.concerns(way)
        }
        self._to_drop = {UP: 0, DOWN: 0}
        for way in (UP, DOWN):
            if fault.concerns(way):
                self._to_drop[way] = fault.drop
        self._changed.set()
        if fault.trickle is not None and fault.concerns(UP):
            with suppress(OSError):
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        if fault.reset_after == 0:
            self.reset()
        elif fault.cut_after == 0:
            self.hang_up()

    def run(self) -> None:
        """Pass on until one side ends, or a fault ends it."""
        try:
            self._server = socket.create_connection(self._proxy.target)
        except OSError:
            # As if the client had met the server itself.
            reset_on_close(self.client)
            return
        self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = gevent.spawn(self._pump, DOWN, self._server, self.client)
        try:
            self._pump(UP, self.client, self._server)
        finally:
            back.kill()
            self._server.close()

    def hang_up(self) -> None:
        """End it in the regular way on both sides."""
        for sock in self._both():
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End it with a reset on both sides."""
        for sock in self._both():
            with suppress(OSError):
                reset_on_close(sock)
                sock.close()

    def _both(self) -> list[Any]:
        return [sock for sock in (self.client, self._server) if sock is not None]

    def _pump(self, way: str, origin: Any, target: Any) -> None:
        with suppress(OSError):
            while data := origin.recv(self._bite(way)):
                if way == DOWN:
                    self.answered = True
                self._wait_for_passage()
                data = self._after_loss(way, data)
                passed, ends = self._before_the_end(way, data)
                for piece in self._pieces(way, passed):
                    target.sendall(piece)
                if ends:
                    break
        # Nor is it told of an end while there is silence.
        self._wait_for_noise()
        if self.fault.reset_after is not None and self._left.get(way) == 0:
            self.reset()
        else:
            self.hang_up()

    def _bite(self, way: str) -> int:
        trickle = self.fault.trickle
        if trickle is None or not self.fault.concerns(way):
            return CHUNK
        return trickle

    def _wait_for_passage(self) -> None:
        fault = self.fault
        if fault.delay or fault.jitter:
            gevent.sleep(fault.delay + fault.jitter * self._proxy.chance.random())
        self._wait_for_noise()

    def _wait_for_noise(self) -> None:
        while self.fault.silent:
            self._changed.clear()
            self._changed.wait()

    def _after_loss(self, way: str, data: bytes) -> bytes:
        lost = min(len(data), self._to_drop[way])
        self._to_drop[way] -= lost
        return data[lost:]

    def _before_the_end(self, way: str, data: bytes) -> tuple[bytes, bool]:
        left = self._left.get(way)
        if left is None:
            return data, False
        passed = data[:left]
        self._left[way] = left - len(passed)
        return passed, self._left[way] == 0

    def _pieces(self, way: str, data: bytes) -> Iterator[bytes]:
        step = self._bite(way)
        for start in range(0, len(data), step):
            if self.fault.trickle is not None:
                real_time(0.001)
            yield data[start : start + step]


def _still_open(socks: Iterable[Any]) -> int:
    """How many are open at the other end too, read or not."""
    poll = get_original("select", "poll")()
    known = 0
    for sock in socks:
        if sock.fileno() >= 0:
            poll.register(sock.fileno(), select.POLLRDHUP)
            known += 1
    gone = select.POLLRDHUP | select.POLLHUP | select.POLLERR
    return known - sum(bool(event & gone) for _, event in poll.poll(0))


@contextmanager
def disturbed(proxy: Proxy, fault: Fault, **when: bool) -> Iterator[None]:
    """A block during which *fault* acts."""
    proxy.disturb(fault, **when)
    try:
        yield
    finally:
        proxy.calm()
