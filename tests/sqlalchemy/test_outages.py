"""The database cannot be reached: which borrowers wait, fail, or try it again."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import Backoff, ErrorAction, Outage
from geventpool.sqlalchemy import outages
from geventpool.sqlalchemy.outages import FIRST, NO_LIMIT_FROM, ConnectGate
from geventpool.testing import Clock, wait_until

#: The server is not tried again before the test is over.
NEVER = Backoff(3600, maximum=3600)
AT_ONCE = Backoff(0, maximum=0)


def attempts(gate):
    """The greenlets that try to connect now."""
    return gate._attempts


class Server:
    """What is dialled; each dial is counted."""

    def __init__(self):
        self.dials = 0
        self.error = None
        self.hangs = None

    def dial(self):
        self.dials += 1
        if self.hangs is not None:
            self.hangs.wait()
        if self.error is not None:
            raise self.error
        return "connection"


def make(clock=None, action=ErrorAction.DISCARD, told=None, **options):
    """A gate whose server was reached once."""
    told = [] if told is None else told
    gate = ConnectGate(
        Outage(**options),
        clock or Clock(),
        lambda error: action,
        lambda name, value: told.append((name, value)),
    )
    server = Server()
    assert gate.connect(server.dial, None) == "connection"
    return gate, server


def outcome(gate, server, limit=None):
    """What connecting returns, or the error."""
    try:
        return gate.connect(server.dial, limit)
    except Exception as error:
        return error


def test_borrowers_wait_in_the_grace_and_are_served(make_pool, database):
    """A short outage costs a delay and no error."""
    pool = make_pool(pool_size=3)
    pool.connect().invalidate()
    database.failure = OSError("down")
    crowd = [gevent.spawn(pool.connect) for _ in range(6)]
    wait_until(lambda: pool.stats().paused)
    database.failure = None
    for _ in range(6):
        wait_until(lambda: any(each.dead for each in crowd))
        (ready, *_) = [each for each in crowd if each.dead]
        crowd.remove(ready)
        ready.get().close()
    assert not pool.stats().paused


def test_the_repr_of_an_engine_tells_of_an_outage(make_pool, database):
    """It agrees with ``stats()``: no connection is open, so none is idle."""
    pool = make_pool(pool_size=3, logging_name="shop")
    first = pool.connect()
    assert repr(pool.core) == "<RecordPool 'shop' 1/3: 0 idle, 1 in use, 0 waiting>"
    first.invalidate()
    first.close()
    database.failure = OSError("down")
    waiter = gevent.spawn(pool.connect)
    wait_until(lambda: pool.stats().paused)
    waiter.kill()
    told = repr(pool.core)
    assert told == "<RecordPool 'shop' paused 0/3: 0 idle, 0 in use, 0 waiting>"


def test_a_server_that_was_never_reached_fails_at_once():
    """It is more likely that its address is wrong."""
    gate = ConnectGate(
        Outage(), Clock(), lambda error: ErrorAction.DISCARD, lambda *told: None
    )
    server = Server()
    server.error = OSError("down")
    assert outcome(gate, server) is server.error
    assert server.dials == 1


def test_after_the_grace_all_fail_at_once_with_the_last_error():
    """And nothing is dialled before the pause is over."""
    clock = Clock()
    gate, server = make(clock, grace=0, backoff=NEVER)
    server.error = OSError("down")
    for _ in range(3):
        assert outcome(gate, server) is server.error
    later = outcome(gate, server)
    assert str(later) == "down" and later is not server.error
    assert server.dials == 4
    clock.advance(2 * 3600)
    server.error = None
    assert outcome(gate, server) == "connection"


def test_the_end_of_the_grace_ends_the_waits():
    """However long the pause lasts."""
    clock = Clock()
    gate, server = make(clock, grace=0.02, backoff=NEVER)
    server.error = OSError("down")
    waiter = gevent.spawn(outcome, gate, server)
    wait_until(lambda: gate.breaker.paused)
    clock.advance(0.02)
    assert isinstance(waiter.get(), OSError)
    assert server.dials == 4


def test_nobody_waits_longer_than_its_limit():
    """The pool's timeout."""
    clock = Clock()
    gate, server = make(clock, wait=True)
    server.error = OSError("down")
    waiter = gevent.spawn(outcome, gate, server, 60)
    wait_until(lambda: gate.breaker.paused)
    clock.advance(61)
    assert isinstance(waiter.get(), OSError)
    assert isinstance(outcome(gate, server, 0), OSError)


def test_an_error_that_is_no_loss_is_raised_at_once_and_stops_nobody():
    """A wrong password; a listener of one tenant that fails."""
    gate, server = make()
    server.error = ValueError("no password")
    for _ in range(9):
        assert outcome(gate, server) is server.error
    assert gate.breaker.since is None
    assert server.dials == 10


def test_the_driver_says_what_is_a_loss():
    """Its error need not come of the socket's."""
    gate, server = make(action=ErrorAction.DISCONNECT, grace=0, failures=1)
    server.error = ValueError("gone away")
    assert outcome(gate, server) is server.error
    assert gate.breaker.paused


def test_a_dialect_that_cannot_judge_its_error_hides_no_error(make_pool, caplog):
    """The caller gets the error of connecting."""

    def dial():
        raise ValueError("no password")

    pool = make_pool(dial)
    dialect = type("Dialect", (), {"is_disconnect": lambda *args: 1 / 0, "name": "x"})
    pool._dialect = dialect()
    with pytest.raises(ValueError):
        pool.core.gate.connect(dial, None)
    assert "ZeroDivisionError" in caplog.text


def test_the_error_of_a_driver_hides_that_of_the_socket():
    """It is raised while the other one is handled."""

    def dial():
        try:
            raise ConnectionRefusedError(111, "refused")
        except OSError:
            raise ValueError("can't connect")  # noqa: B904

    gate, server = make(grace=0, failures=1)
    with pytest.raises(ValueError, match="can't connect"):
        gate.connect(dial, None)
    assert gate.breaker.paused


def test_an_error_that_the_borrower_handles_is_no_loss():
    """It was there before."""
    gate, server = make(grace=0, failures=1)
    server.error = ValueError("no password")
    try:
        raise OSError("something else")
    except OSError:
        assert outcome(gate, server) is server.error
    assert not gate.breaker.paused


def test_the_server_is_tried_by_one_borrower_at_a_time():
    """Many would be a storm of dials."""
    clock = Clock()
    gate, server = make(clock, backoff=AT_ONCE)
    server.error = OSError("down")
    first = gevent.spawn(outcome, gate, server)
    wait_until(lambda: gate.breaker.paused)
    server.hangs = Event()
    clock.advance(1)
    crowd = [gevent.spawn(outcome, gate, server) for _ in range(5)]
    wait_until(lambda: len(attempts(gate)) == 1)
    gevent.idle()
    assert len(attempts(gate)) == 1
    server.error = None
    server.hangs.set()
    gevent.joinall([first, *crowd])
    assert {each.value for each in [first, *crowd]} == {"connection"}


def test_an_attempt_that_hangs_does_not_keep_others_from_trying(monkeypatch):
    """Its packets may be lost for good."""
    monkeypatch.setattr(outages, "SLOW", 0.01)
    clock = Clock()
    gate, server = make(clock, grace=0, failures=1, backoff=AT_ONCE)
    server.error = OSError("down")
    outcome(gate, server)
    clock.advance(1)
    hangs = server.hangs = Event()
    slow = gevent.spawn(outcome, gate, server)
    gevent.idle()
    server.hangs = server.error = None
    assert isinstance(outcome(gate, server), OSError)
    clock.advance(0.02)
    assert outcome(gate, server) == "connection"
    hangs.set()
    slow.join()


@pytest.mark.parametrize("grace", [3, 0])
def test_an_attempt_that_began_in_a_past_outage_begins_no_new_one(grace):
    """It tells nothing of the server as it is now."""
    gate, server = make(failures=1, grace=grace)
    hangs, tries = Event(), []

    def dial():
        tries.append(1)
        if len(tries) == 1:
            hangs.wait()
            raise OSError("timed out")
        return "connection"

    slow = gevent.spawn(outcome, gate, type("Slow", (), {"dial": staticmethod(dial)}))
    gevent.idle()
    assert outcome(gate, server) == "connection"
    hangs.set()
    assert isinstance(slow.get(), str if grace else OSError)
    assert not gate.breaker.paused and gate.breaker.since is None


def test_in_the_grace_an_attempt_that_hangs_delays_others_for_a_moment():
    """The port of a server that starts may accept long before it answers."""
    clock = Clock()
    gate, server = make(clock, failures=1, backoff=AT_ONCE)
    server.error = OSError("down")
    first = gevent.spawn(outcome, gate, server)
    wait_until(lambda: gate.breaker.paused)
    hangs = server.hangs = Event()
    clock.advance(2 * outages.PROMPT)  # type: ignore[attr-defined]
    wait_until(lambda: attempts(gate))
    server.hangs = server.error = None
    clock.advance(2 * outages.PROMPT)  # type: ignore[attr-defined]
    assert outcome(gate, server) == "connection"
    hangs.set()
    assert first.get() == "connection"


def test_after_an_outage_borrowers_connect_by_fours_and_eights():
    """The server has much to do then, and nothing else limits them."""
    clock = Clock()
    gate, server = make(clock, grace=0, failures=1, backoff=AT_ONCE)
    server.error = OSError("down")
    outcome(gate, server)
    clock.advance(1)
    server.error = None
    assert outcome(gate, server) == "connection"
    hangs = server.hangs = Event()
    crowd = [gevent.spawn(outcome, gate, server) for _ in range(10)]
    gevent.idle()
    assert len(attempts(gate)) == FIRST
    clock.advance(2 * outages.PROMPT)  # type: ignore[attr-defined]
    wait_until(lambda: len(attempts(gate)) == 2 * FIRST)
    before = server.dials
    last = gevent.spawn(outcome, gate, server, 0)
    gevent.idle()
    assert server.dials == before + 1, "it has no time to wait"
    hangs.set()
    gevent.joinall([*crowd, last])
    assert {each.value for each in [*crowd, last]} == {"connection"}
    for _ in range(NO_LIMIT_FROM):
        outcome(gate, server)
    assert gate.breaker.limit == NO_LIMIT_FROM


def test_listeners_hear_of_an_outage():
    """Its begin and its end."""
    told: list[Any] = []
    clock = Clock()
    gate, server = make(clock, told=told, grace=0, failures=1, backoff=AT_ONCE)
    server.error = OSError("down")
    outcome(gate, server)
    clock.advance(2)
    last, server.error = server.error, None
    outcome(gate, server)
    assert told == [("paused", last), ("resumed", 2.0)]


def test_an_error_that_cannot_be_copied_is_raised_as_it_is():
    """Better than another one."""

    class Odd(OSError):
        def __reduce__(self):
            raise TypeError("no")

    gate, server = make(grace=0, failures=1, backoff=NEVER)
    server.error = Odd("down")
    assert outcome(gate, server) is outcome(gate, server)


def test_an_interrupted_attempt_tells_nothing_of_the_server():
    """The next one may try it."""
    gate, server = make(failures=1)
    server.hangs = Event()
    borrower = gevent.spawn(outcome, gate, server)
    gevent.idle()
    borrower.kill()
    assert not attempts(gate) and gate.breaker.since is None


def test_the_dialect_is_asked(make_pool):
    """It knows the codes of its servers."""
    pool = make_pool(dialect=None)
    classify = pool.core.connector.classify
    assert classify(OSError()) is ErrorAction.DISCARD
    pool._dialect = type(
        "Dialect", (), {"is_disconnect": lambda self, error, conn, cursor: "yes"}
    )()
    assert classify(OSError()) is ErrorAction.DISCONNECT


def test_the_creator_can_be_taken_away(make_pool, database):
    """As that of SQLAlchemy's own pools."""
    pool = make_pool()
    del pool._creator
    assert "_invoke_creator" not in pool.__dict__
    pool._creator = database
    pool.connect().close()
