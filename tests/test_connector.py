"""Connectors: how one kind of connection is handled."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket

from geventpool import ErrorAction, Pool, dialing
from geventpool._core.as_connector import as_connector
from geventpool.connection import Connection, TcpConnection
from geventpool.connector import Connector, terminate
from geventpool.factory import FactoryConnector
from geventpool.testing import no_switch
from tests import parts
from tests.peers import Echo, Unruly


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A peer that answers."""
    with Echo() as peer:
        yield peer


class Recorder:
    """A driver's object in gsocketpool's style, that knows what was done with it."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.calls: list[str] = []
        self.connected = False
        self.expired = False
        self.error: BaseException | None = None

    def attach(self, sock: Any) -> None:
        """Keep a socket where the objects of gsocketpool have it."""
        self._sock = sock

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def open(self) -> None:
        self._note("open")
        self.connected = True

    def close(self) -> None:
        self._note("close")
        self.connected = False

    def is_connected(self) -> bool:
        return self.connected

    def is_expired(self) -> bool:
        return self.expired


def dialled(peer: Echo) -> socket.socket:
    return dialing.dial(peer.host, peer.port, timeout=5)


# The defaults


def test_opening_and_closing_must_be_written() -> None:
    """A connector without open and close handles nothing."""
    connector: Connector[object] = Connector()
    with pytest.raises(NotImplementedError):
        connector.open()
    with pytest.raises(NotImplementedError):
        connector.close(object())


def test_the_defaults_claim_nothing_they_have_not_looked_at() -> None:
    """Unless told otherwise: usable, no reset, and no error is survived or excused."""
    connector: Connector[object] = Connector()
    conn, error = object(), OSError("no")
    assert connector.is_usable(conn) is True
    assert connector.needs_reset(conn) is False
    assert connector.classify(error) is ErrorAction.DISCARD
    connector.reset(conn)
    connector.ping(conn)


def test_a_ping_without_a_question_is_a_look() -> None:
    """The default ping raises for a connection that is not usable."""

    class Broken(Connector[object]):
        def is_usable(self, conn: object) -> bool:
            return False

    with pytest.raises(ConnectionError, match="closed, or has something to read"):
        Broken().ping(object())


# Letting go


@pytest.mark.parametrize("name", ["sock", "_sock", "socket"])
def test_the_socket_is_taken_from_under_a_strangers_object(
    name: str, echo: Echo
) -> None:
    """A driver's connection is discarded by its socket; its close() is not called."""
    sock = dialled(echo)
    conn = SimpleNamespace(**{name: sock})
    with no_switch():
        Connector[Any]().terminate(conn)
    assert sock.fileno() == -1
    echo.wait_open(0)


def test_a_bare_socket_can_be_discarded(echo: Echo) -> None:
    """The connection may be a socket itself."""
    sock = dialled(echo)
    with no_switch():
        terminate(sock)
        terminate(sock)
    assert sock.fileno() == -1
    echo.wait_open(0)


def test_a_connection_discards_itself() -> None:
    """A Connection knows best, and its own discard is used."""

    class Mine(Connection):
        discarded = False

        def terminate(self) -> None:
            self.discarded = True

    conn = Mine()
    terminate(conn)
    assert conn.discarded


def test_a_descriptor_that_is_the_drivers_own_is_cut_not_closed(echo: Echo) -> None:
    """Where there is only a number, the connection goes and the number stays."""
    sock = dialled(echo)
    closed = []
    conn = SimpleNamespace(fileno=sock.fileno, close=lambda: closed.append(1))
    with no_switch():
        terminate(conn)
    echo.wait_open(0)
    os.fstat(sock.fileno())
    assert not closed
    sock.close()


@pytest.mark.parametrize("answer", [-1, None, "7", OSError("closed"), TypeError()])
def test_a_driver_without_a_descriptor_is_taken_for_closed(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Drivers raise errors of their own then; that is no news and nothing to log."""

    def fileno() -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    conn = SimpleNamespace(fileno=fileno)
    assert terminate(conn)
    assert FactoryConnector(dict).fileno(conn) == -1
    assert not caplog.records


def test_an_object_without_a_descriptor_is_not_closed_at_once() -> None:
    """Its close() may wait for an answer, and letting go must not."""
    conn = Recorder()
    assert terminate(conn) is False
    assert FactoryConnector(dict).terminate(conn) is False
    assert conn.calls == []


def test_an_object_without_a_close_needs_no_discarding() -> None:
    """There is nothing that a greenlet of the pool could do for it."""
    assert FactoryConnector(dict).terminate(object()) is True


class Stubborn(Connection):
    """Raises what it was given when it is to be discarded."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def terminate(self) -> None:
        raise self.error


def test_letting_go_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An error while letting go is logged, for there is nobody to raise it to."""
    assert terminate(Stubborn(RuntimeError("broken"))) is False
    assert "could not terminate" in caplog.text
    assert "broken" in caplog.text


def test_a_kill_while_letting_go_is_not_swallowed() -> None:
    """Only errors are logged; a kill ends the greenlet."""
    with pytest.raises(gevent.GreenletExit):
        terminate(Stubborn(gevent.GreenletExit()))


# Factories


def test_a_factory_makes_what_the_ancestors_pool_takes(echo: Echo) -> None:
    """factory(**options) is opened, used and closed."""
    connector = FactoryConnector(TcpConnection, echo.options)
    conn = connector.open()
    assert isinstance(conn, TcpConnection) and conn.is_connected()
    conn.send(b"hello")
    assert conn.recv() == b"hello"
    connector.ping(conn)
    connector.close(conn)
    assert not conn.is_connected()
    echo.wait_open(0)


def test_every_open_makes_a_new_object_from_the_same_options() -> None:
    """Each connection is new, and the options stay what they were."""
    options = {"a": 1}
    connector = FactoryConnector(Recorder, options)
    options["a"] = 2
    first, second = connector.open(), connector.open()
    first.options["a"] = 3
    assert first is not second
    assert second.options == {"a": 1}
    assert FactoryConnector(Recorder).open().options == {}


def test_an_object_without_open_is_open(echo: Echo) -> None:
    """A function that returns a connected socket will do."""
    connector = FactoryConnector(lambda: socket.create_connection(echo.address))
    sock = connector.open()
    assert connector.is_usable(sock)
    connector.ping(sock)
    connector.close(sock)
    assert not connector.is_usable(sock)
    with pytest.raises(OSError):
        connector.ping(sock)
    connector.close(sock)
    echo.wait_open(0)


def test_an_attribute_called_open_is_not_called() -> None:
    """Drivers that tell by `open` whether they are open are not opened again."""
    connector = FactoryConnector(lambda: SimpleNamespace(open=True))
    assert connector.open().open is True


@pytest.mark.parametrize("error", [OSError("no"), gevent.GreenletExit()])
def test_a_half_made_connection_is_let_go_of(error: BaseException, echo: Echo) -> None:
    """When opening fails or is interrupted, no socket stays behind."""

    class Half:
        def open(self) -> None:
            self._sock = dialled(echo)
            made.append(self)
            raise error

    made: list[Half] = []
    with pytest.raises(type(error)) as raised:
        FactoryConnector(Half).open()
    assert raised.value is error
    assert parts.socket_of(made[0]).fileno() == -1
    echo.wait_open(0)


def test_what_the_factory_raises_is_passed_on() -> None:
    """A factory's own error is nobody else's."""
    error = RuntimeError("no")

    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        FactoryConnector(fail).open()
    assert raised.value is error


def test_what_is_not_connected_is_not_closed() -> None:
    """As with gsocketpool, close() is for objects that report to be connected."""
    connector = FactoryConnector(Recorder)
    conn = connector.open()
    connector.close(conn)
    connector.close(conn)
    assert conn.calls == ["open", "close"]
    connector.close(object())


def test_a_close_that_fails_still_lets_go_of_the_socket(echo: Echo) -> None:
    """Whatever close() raises is passed on, and the socket is gone all the same."""
    connector = FactoryConnector(Recorder)
    conn = connector.open()
    conn.attach(dialled(echo))
    conn.error = OSError("no goodbye")
    with pytest.raises(OSError, match="no goodbye"):
        connector.close(conn)
    assert parts.socket_of(conn).fileno() == -1
    echo.wait_open(0)


def test_a_close_that_a_file_prevents_still_lets_go(echo: Echo) -> None:
    """A file made from the socket, as some drivers keep one, does not hold it open."""
    conn = SimpleNamespace(sock=dialled(echo))
    file = conn.sock.makefile("rb")
    conn.close = conn.sock.close
    FactoryConnector(lambda: conn).close(conn)
    echo.wait_open(0)
    file.close()


def test_a_ping_of_its_own_is_used() -> None:
    """An object with a ping method is asked by it."""
    asked = []
    conn = SimpleNamespace(ping=lambda: asked.append(1))
    FactoryConnector(lambda: conn).ping(conn)
    assert asked == [1]


def test_usable_is_connected_and_not_expired_and_quiet() -> None:
    """Each of the three makes a connection unfit to be lent."""
    with Unruly() as peer:
        connector = FactoryConnector(Recorder)
        conn = connector.open()
        assert connector.is_usable(conn)
        conn.expired = True
        assert not connector.is_usable(conn)
        conn.expired, conn.connected = False, False
        assert not connector.is_usable(conn)
        conn.connected = True
        conn.attach(dialing.dial(peer.host, peer.port, timeout=5))
        assert connector.is_usable(conn)
        peer.wait_until(lambda: bool(peer._talking), "talking")
        peer.say(b"?")
        socket.wait_read(parts.socket_of(conn).fileno(), timeout=5)
        with no_switch():
            assert not connector.is_usable(conn)
        connector.close(conn)


def test_a_tcp_connection_is_usable_on_the_same_terms() -> None:
    """A Connection is asked the same three questions."""
    with Echo() as peer:
        connector = FactoryConnector(TcpConnection, peer.options)
        conn = connector.open()
        with no_switch():
            assert connector.is_usable(conn)
        opened = conn.clock()
        conn.clock = lambda: opened + 601
        assert not connector.is_usable(conn)
        conn.clock = lambda: opened
        assert connector.is_usable(conn)
        peer.hang_up_all()
        socket.wait_read(conn.fileno(), timeout=5)
        assert not connector.is_usable(conn)
        connector.close(conn)
        assert not connector.is_usable(conn)


def test_properties_answer_as_well_as_methods() -> None:
    """is_connected may be a property, as some drivers have it."""
    connector = FactoryConnector(SimpleNamespace)
    assert connector.is_usable(SimpleNamespace(is_connected=True))
    assert not connector.is_usable(SimpleNamespace(is_connected=False))


def test_a_descriptor_without_a_socket_can_be_asked(echo: Echo) -> None:
    """A driver's object with nothing but a fileno is asked by that."""
    sock = dialled(echo)
    connector = FactoryConnector(SimpleNamespace)
    conn = SimpleNamespace(fileno=sock.fileno)
    assert connector.is_usable(conn)
    echo.wait_open(1)
    echo.hang_up_all()
    socket.wait_read(sock.fileno(), timeout=5)
    assert not connector.is_usable(conn)
    sock.close()


def test_one_that_cannot_say_is_not_usable() -> None:
    """An error in the object's own methods makes it unusable; a kill is a kill."""
    connector = FactoryConnector(Recorder)

    def fail() -> bool:
        raise RuntimeError("broken")

    def die() -> bool:
        raise gevent.GreenletExit

    assert not connector.is_usable(SimpleNamespace(is_expired=fail))
    with pytest.raises(gevent.GreenletExit):
        connector.is_usable(SimpleNamespace(is_expired=die))


def test_a_discarded_socket_leaves_nothing_to_complain_about(echo: Echo) -> None:
    """Once discarded, the garbage collector finds no open socket to warn of."""
    connector = FactoryConnector(lambda: dialled(echo))
    connector.terminate(connector.open())
    gc.collect()
    echo.wait_open(0)


def test_a_factory_that_makes_nothing_is_told_so() -> None:
    """A function that forgets to return its connection is named."""
    with pytest.raises(TypeError, match="the factory returned None"):
        FactoryConnector(lambda: None).open()


# Which of the two


def test_a_connector_is_taken_as_it_is() -> None:
    """A Connector needs no bridge, and no options."""
    connector: Connector[object] = Connector()
    assert as_connector(connector) is connector
    assert as_connector(connector, {}) is connector


def test_a_callable_gets_a_bridge() -> None:
    """Anything else that can be called is a factory."""
    connector = as_connector(Recorder, {"a": 1})
    assert isinstance(connector, FactoryConnector)
    assert connector.open().options == {"a": 1}


def test_options_beside_a_connector_are_refused() -> None:
    """A Connector has its own options; others are refused."""
    with pytest.raises(TypeError, match=r"options are for a factory.*\['a', 'b'\]"):
        as_connector(Connector[object](), {"b": "secret", "a": 1})


@pytest.mark.parametrize("factory", [None, 7, "TcpConnection"])
def test_a_factory_must_be_callable(factory: Any) -> None:
    """What cannot be called makes no connections."""
    with pytest.raises(TypeError, match=f"factory must be .* not {factory!r}"):
        as_connector(factory)


def test_a_connectors_class_is_no_factory() -> None:
    """A class instead of a connector is an error, and does not make a wrong pool."""
    with pytest.raises(TypeError, match=r"not the class: Connector\(\)"):
        as_connector(Connector)


@pytest.mark.parametrize("options", [7, [("a", 1)], "a=1"])
def test_options_must_be_a_dict(options: Any) -> None:
    """Options are names with values, or None."""
    with pytest.raises(TypeError, match="options must be a dict or None"):
        FactoryConnector(Recorder, options)


def test_options_must_have_names() -> None:
    """What cannot be a keyword is refused before anything is opened."""
    options: Any = {7: "a"}
    with pytest.raises(TypeError, match="names for keys, not 7"):
        FactoryConnector(Recorder, options)


def test_the_repr_tells_the_factory_and_no_secret() -> None:
    """A password among the options is not shown."""
    connector = FactoryConnector(Recorder, {"password": "secret"})
    assert repr(connector) == "<FactoryConnector Recorder>"

    class Maker:
        def __call__(self) -> None: ...

        def __repr__(self) -> str:
            return "a maker"

    assert repr(FactoryConnector(Maker())) == "<FactoryConnector a maker>"


def test_a_connector_that_was_not_told_where_to_look_says_so() -> None:
    """The event loop cannot watch what it does not know."""
    assert Connector().fileno(object()) == -1  # type: ignore[arg-type]


def test_a_descriptor_is_that_of_the_socket_or_what_the_object_says() -> None:
    """Of a socket, of what has one, of what has a method; else there is none."""
    connector = FactoryConnector(object)
    mine, other = socket.socketpair()
    number = mine.fileno()
    assert connector.fileno(mine) == number
    assert connector.fileno(SimpleNamespace(sock=mine)) == number
    assert connector.fileno(SimpleNamespace(fileno=lambda: 7)) == 7
    assert connector.fileno(SimpleNamespace()) == -1
    mine.close()
    other.close()
    assert connector.fileno(mine) == -1


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (EOFError(), True),
        (OSError(), False),
        (ValueError(), False),
    ],
)
def test_errors_that_may_have_hit_the_idle_connections(
    error: Exception, is_lost: bool
) -> None:
    """The end of the stream is the loss of a connection, as a reset is."""
    action = FactoryConnector(object).classify(error)
    assert (action is ErrorAction.DISCONNECT) is is_lost


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_process_or_system_without_descriptors_is_exhausted(number: int) -> None:
    """Like a server that is full: the next one that closes makes room."""
    connector = FactoryConnector(object)
    full = connector.classify(OSError(number, "too many open files"))
    refused = connector.classify(OSError(errno.ECONNREFUSED, "refused"))
    assert full is ErrorAction.BACK_OFF and refused is ErrorAction.DISCONNECT


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("survives", "KEEP"),
        ("condemns", "DRAIN"),
        ("is_disconnect", "DISCONNECT"),
        ("is_exhausted", "BACK_OFF"),
    ],
)
def test_a_method_that_nothing_calls_is_refused(name: str, action: str) -> None:
    """A connector that defines one would otherwise be silently misjudged."""
    kind = type("Mine", (Connector,), {name: lambda self, error: True})
    with pytest.raises(TypeError, match=rf"must not define {name}\(\).*{action}"):
        Pool(kind())


def test_a_connector_that_says_nothing_cancels_nothing_and_awaits_no_reset() -> None:
    """Such verbs are for connectors that know how; the others leave them alone."""

    class Plain(Connector[object]):
        def open(self) -> object:
            return object()

    connector = Plain()
    conn = connector.open()
    assert not connector.begin_cancel(conn)
    assert not connector.cancel(conn)
    assert not connector.awaits_reset(conn)
    assert not connector.end_loan(conn)
