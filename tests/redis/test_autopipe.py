"""Commands of many greenlets over one connection: who gets what, and over which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event
from redis._parsers import _HiredisParser, _RESP2Parser, _RESP3Parser
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import AutoPipeline, ConnectionPool
from geventpool.redis.standin import StandIn
from geventpool.redis.transports import PlainTransport
from geventpool.testing import wait_until
from tests import parts
from tests.redis.conftest import TLS, MakePool
from tests.redis.scripted import scripted_redis
from tests.redis.talking import own_loans
from tests.redis.tools import chain, outcome, pool_of
from tests.servers import RedisServer

MakeClient = Callable[..., redis.Redis]


@pytest.fixture()
def shared(make_pool: MakePool) -> redis.Redis:
    """A client whose commands share one connection."""
    return redis.Redis(connection_pool=make_pool(auto_pipeline=True, max_connections=3))


def echoes(client: redis.Redis, number: int) -> list[Any]:
    """What so many greenlets get, each of which asks for something of its own."""
    jobs = [gevent.spawn(client.echo, f"tag{each}") for each in range(number)]
    return [job.get(timeout=10) for job in jobs]


# Over one connection.


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("parser", [_HiredisParser, None])
@pytest.mark.parametrize("decodes", [False, True])
def test_many_greenlets_share_one_connection(
    make_pool: MakePool, protocol: int, parser: Any, decodes: bool
) -> None:
    """With each parser of redis-py, each protocol, and decoding; each its own reply."""
    if parser is None:
        parser = _RESP3Parser if protocol == 3 else _RESP2Parser
    pool = make_pool(
        auto_pipeline=True,
        protocol=protocol,
        parser_class=parser,
        decode_responses=decodes,
    )
    client = redis.Redis(connection_pool=pool)
    expected = [f"tag{each}" for each in range(50)]
    got = echoes(client, 50)
    assert got == (expected if decodes else [each.encode() for each in expected])
    assert pool.stats().size == 1
    client.hset("hash", mapping={"a": "1"})
    assert client.hgetall("hash") == ({"a": "1"} if decodes else {b"a": b"1"})


def test_the_commands_of_one_turn_are_written_together(
    shared: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call for each command would be most of the price."""
    shared.ping()
    writes: list[int] = []
    send = PlainTransport.send

    def counted(self: PlainTransport, data: bytes) -> int:
        writes.append(len(data))
        return send(self, data)

    monkeypatch.setattr(PlainTransport, "send", counted)
    echoes(shared, 100)
    # The first may find nobody before it, and is written at once.
    assert len(writes) <= 2


def test_a_command_is_written_before_earlier_ones_are_answered() -> None:
    """Full duplex: no batch waits for the reply to the one before."""
    arrived = Event()

    def answer(command: list[bytes]) -> bytes | None:
        if command[1] == b"first":
            return None
        arrived.set()
        return b"+one\r\n+two\r\n"

    with scripted_redis(answer) as server:
        pool = ConnectionPool(port=server.port, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)
        first = gevent.spawn(client.get, "first")
        wait_until(lambda: server.received)
        second = gevent.spawn(client.get, "second")
        assert arrived.wait(5)
        assert first.get(timeout=5) == b"one"
        assert second.get(timeout=5) == b"two"
        pool.shutdown(5)


def test_a_reply_wakes_its_greenlet_before_later_ones_arrive() -> None:
    """A fast command does not wait for the slow ones that were written with it."""
    with scripted_redis(lambda command: None) as server:
        pool = ConnectionPool(port=server.port, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)
        jobs = [gevent.spawn(client.get, str(number)) for number in range(2)]
        wait_until(lambda: len(server.received) == 2)
        server.sockets[0].sendall(b"+one\r\n")
        assert jobs[0].get(timeout=5) == b"one"
        assert not jobs[1].dead
        server.sockets[0].sendall(b"+two\r\n")
        assert jobs[1].get(timeout=5) == b"two"
        pool.shutdown(5)


def test_large_pieces_go_both_ways_at_once(make_pool: MakePool) -> None:
    """A client that writes all before it reads waits forever for a server like it."""
    pool = make_pool(
        auto_pipeline=AutoPipeline(max_size=10_000_000), max_in_flight=5000
    )
    client = redis.Redis(connection_pool=pool)
    tags = [bytes([65 + number]) * 3_000_000 for number in range(8)]
    jobs = [gevent.spawn(client.echo, tag) for tag in tags]
    small = [gevent.spawn(client.echo, f"tag{each}") for each in range(20)]
    assert [job.get(timeout=30) for job in jobs] == tags
    assert [job.get(timeout=30) for job in small] == [b"tag%d" % n for n in range(20)]
    assert pool.stats().size == 1


def test_tls_is_shared_as_well(tls_server: RedisServer) -> None:
    """Records hide data from the event loop, and refused pieces must come again."""
    pool = ConnectionPool(
        connection_class=redis.SSLConnection,
        port=tls_server.port,
        ssl_ca_certs=str(TLS / "cert.pem"),
        auto_pipeline=AutoPipeline(max_size=10_000_000),
        max_in_flight=5000,
    )
    client = redis.Redis(connection_pool=pool)
    assert echoes(client, 50) == [b"tag%d" % number for number in range(50)]
    tags = [bytes([65 + number]) * 2_000_000 for number in range(4)]
    jobs = [gevent.spawn(client.echo, tag) for tag in tags]
    assert [job.get(timeout=30) for job in jobs] == tags
    assert pool.stats().size == 1
    pool.shutdown(5)


def test_a_unix_socket_is_shared_as_well() -> None:
    """It has no host to be asked for."""
    with RedisServer() as server:
        pool = ConnectionPool.from_url(f"unix://{server.unix_socket}?auto_pipeline=yes")
        client = redis.Redis(connection_pool=pool)
        assert echoes(client, 20) == [b"tag%d" % number for number in range(20)]
        assert pool.stats().size == 1
        pool.shutdown(5)


def test_an_error_reply_reaches_its_caller_alone(shared: redis.Redis) -> None:
    """It is a reply like any other, and the connection stays."""
    shared.set("text", "a")
    wrong = gevent.spawn(outcome, shared.incr, "text")
    right = gevent.spawn(shared.get, "text")
    assert isinstance(wrong.get(timeout=5), redis.ResponseError)
    assert right.get(timeout=5) == b"a"
    nested = shared.eval("return {1, {err='inner'}}", 0)
    assert isinstance(nested[1], redis.ResponseError)
    assert pool_of(shared).stats().size == 1


def test_what_cannot_be_sent_is_refused_before_it_is_queued(
    shared: redis.Redis,
) -> None:
    """Else every later reply would go to the wrong caller."""
    for value in (None, True, object()):
        with pytest.raises(redis.DataError):
            shared.set("key", value)  # type: ignore[arg-type]
    with pytest.raises(redis.DataError):
        chain(shared.pipeline()).set("key", None).execute()
    stock = redis.Redis(port=shared.connection_pool.connection_kwargs["port"])
    for odd in (bytearray(b"bytes"), memoryview(b"view"), memoryview(b"a-b-c")[::2]):
        # Newer versions of redis-py convert it.
        expected = outcome(stock.set, "key", odd), stock.get("key")
        got = outcome(shared.set, "key", odd), stock.get("key")
        assert repr(got) == repr(expected)
    names: list[Any] = [["GET"], {}, bytearray(b"GET"), memoryview(b"GET"), 5, None]
    for name in names:
        expected = outcome(stock.execute_command, name, "key")
        assert repr(outcome(shared.execute_command, name, "key")) == repr(expected)
    stock.close()
    assert parts.sharing(shared.connection_pool).in_flight() == 0


def test_a_reply_that_must_not_be_decoded_comes_over_another_connection(
    make_pool: MakePool,
) -> None:
    """Programs that decode ask for bytes in this way."""
    pool = make_pool(decode_responses=True, auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.set("raw", b"\xff")
    assert client.execute_command("GET", "raw", NEVER_DECODE=True) == b"\xff"
    client.set("raw", "text")
    assert client.get("raw") == "text"


def test_a_packer_of_the_users_own_is_used(make_pool: MakePool) -> None:
    """The fast way is for redis-py's own packer only."""

    class Packer:
        def pack(self, *args: Any) -> list[bytes]:
            words = [str(each).encode() for each in args]
            return [b"*%d\r\n" % len(words)] + [
                b"$%d\r\n%s\r\n" % (len(word), word) for word in words
            ]

    pool = make_pool(auto_pipeline=True, command_packer=Packer())
    client: Any = redis.Redis(connection_pool=pool)
    assert client.echo(["list"]) == b"['list']"


# Pipelines.


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_is_one_piece(transaction: bool) -> None:
    """No command of another greenlet comes in between."""
    replies = {b"MULTI": b"+OK\r\n", b"EXEC": b"*3\r\n+a\r\n+a\r\n+a\r\n"}
    with scripted_redis(lambda each: replies.get(each[0], b"+a\r\n")) as server:
        pool = ConnectionPool(port=server.port, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)

        def pipeline(number: int) -> list[Any]:
            pipe = client.pipeline(transaction=transaction)
            for _ in range(3):
                pipe.get(f"{number}")
            return pipe.execute()

        jobs = [gevent.spawn(pipeline, number) for number in range(5)]
        others = [gevent.spawn(client.get, "other") for _ in range(5)]
        assert [job.get(timeout=5) for job in jobs] == [[b"a"] * 3] * 5
        gevent.joinall(others, raise_error=True)
        length = 5 if transaction else 3
        starts = [
            index
            for index, command in enumerate(server.received)
            if command[0] == b"MULTI"
            or (not transaction and command[1] != b"other" and index % 3 == 0)
        ]
        assert len(server.sockets) == 1
        assert len(server.received) == 5 * length + 5
        for start in starts if transaction else []:
            piece = server.received[start : start + length]
            assert [each[0] for each in piece] == [b"MULTI", *[b"GET"] * 3, b"EXEC"]
            assert len({each[1] for each in piece[1:-1]}) == 1
        pool.shutdown(5)


def test_the_errors_of_a_pipeline_are_in_their_places(shared: redis.Redis) -> None:
    """A failed command shifts no reply."""
    shared.set("text", "a")
    for transaction in (False, True):
        pipe = shared.pipeline(transaction=transaction)
        chain(pipe).get("text").incr("text").get("text")
        first, error, last = pipe.execute(raise_on_error=False)
        assert first == last == b"a"
        assert isinstance(error, redis.ResponseError)
    pipe = shared.pipeline()
    chain(pipe).get("text").execute_command("SET")
    with pytest.raises(redis.ResponseError):
        pipe.execute()
    assert shared.get("text") == b"a"
    assert pool_of(shared).stats().size == 1


def test_a_pipeline_that_does_not_fit_takes_a_connection_of_its_own(
    make_pool: MakePool,
) -> None:
    """It would hold up the others, or could never be sent."""
    pool = make_pool(auto_pipeline=AutoPipeline(max_size=2000), max_in_flight=5)
    client = redis.Redis(connection_pool=pool)
    pipe = client.pipeline(transaction=False)
    for _ in range(6):
        pipe.echo("a")
    assert pipe.execute() == [b"a"] * 6
    assert pool.stats().idle == 1
    pipe.echo("a" * 3000)
    assert pipe.execute() == [b"a" * 3000]
    assert client.echo("b" * 3000) == b"b" * 3000
    assert own_loans(client) == 0
    assert parts.multiplexers(pool)[0].shared is None


# Over a connection of its own.


def blocks(client: redis.Redis) -> None:
    assert client.blpop("nothing", 0.01) is None


def reads_a_stream(client: redis.Redis) -> None:
    assert not client.xread({"stream": "$"}, block=10)


def asks_about_the_connection(client: redis.Redis) -> None:
    assert client.client_id() == client.client_info()["id"]


def watches(client: redis.Redis) -> None:
    with client.pipeline() as pipe:
        pipe.watch("watched")
        assert pipe.get("watched") is None
        pipe.multi()
        chain(pipe).set("watched", "1").delete("watched")
        assert pipe.execute() == [True, 1]


def pipelines_with_a_wait(client: redis.Redis) -> None:
    assert chain(client.pipeline(transaction=False)).set("a", 1).wait(0, 1).execute()[0]


def changes_nothing(client: redis.Redis) -> None:
    assert client.config_get("maxmemory")


@pytest.mark.parametrize(
    "deed",
    [
        blocks,
        reads_a_stream,
        asks_about_the_connection,
        watches,
        pipelines_with_a_wait,
        changes_nothing,
    ],
    ids=lambda deed: deed.__name__,
)
def test_what_must_not_share_takes_a_connection_of_its_own(
    shared: redis.Redis, deed: Callable[[redis.Redis], None]
) -> None:
    """And gives it back."""
    multiplexer = None
    shared.ping()
    multiplexer = parts.multiplexers(shared.connection_pool)[0]
    sent = len(multiplexer.shared.sent)
    deed(shared)
    assert pool_of(shared).stats().size == 2
    assert own_loans(shared) == 0
    assert sent == 0


def test_a_blocked_command_holds_up_nobody(shared: redis.Redis) -> None:
    """The purpose of the list."""
    blocked = gevent.spawn(shared.blpop, "queue", 20)
    wait_until(lambda: own_loans(shared) == 1)
    assert echoes(shared, 10) == [b"tag%d" % number for number in range(10)]
    shared.rpush("queue", "item")
    assert blocked.get(timeout=5) == (b"queue", b"item")


def test_subscriptions_and_monitors_have_connections_of_their_own(
    shared: redis.Redis,
) -> None:
    """They keep a connection for long."""
    with shared.pubsub() as subscription, shared.monitor() as monitor:
        subscription.subscribe("channel")
        shared.publish("channel", "text")
        kinds = [subscription.get_message(timeout=5)["type"] for _ in range(2)]
        assert kinds == ["subscribe", "message"]
        # What was sent over the shared connection.
        commands = iter(monitor.next_command, None)
        assert any("PUBLISH" in each["command"] for each in commands)


def test_a_single_connection_client_has_a_connection_of_its_own(
    make_pool: MakePool,
) -> None:
    """It may send MULTI or SELECT by hand."""
    pool = make_pool(auto_pipeline=True, max_connections=3)
    client = redis.Redis(connection_pool=pool, single_connection_client=True)
    client.delete("key")
    assert client.execute_command("MULTI")
    assert client.execute_command("APPEND", "key", "1") == b"QUEUED"
    assert client.execute_command("EXEC") == [1]
    assert redis.Redis(connection_pool=pool).getdel("key") == b"1"
    client.close()


def test_a_connection_taken_by_hand_is_a_connection(make_pool: MakePool) -> None:
    """A caller that asks for a connection wants one."""
    pool = make_pool(auto_pipeline=True)
    conn = pool.get_connection()
    assert isinstance(conn, redis.Connection)
    pool.release(conn)
    # The method of the pool is all that this greenlet does.
    conn = gevent.spawn(pool.get_connection).get()
    assert isinstance(conn, redis.Connection)


def test_locks_and_scripts_work_as_before(shared: redis.Redis) -> None:
    """EVALSHA, NOSCRIPT, SCRIPT LOAD and again; and scripts within pipelines."""
    shared.script_flush()
    with shared.lock("lock", timeout=5, blocking_timeout=5):
        assert shared.get("lock")
    assert not shared.exists("lock")
    script = shared.register_script("return ARGV[1]")
    pipe = shared.pipeline()
    script(args=["x"], client=pipe)
    assert pipe.execute() == [b"x"]


def test_wait_counts_the_writes_that_were_shared(shared: redis.Redis) -> None:
    """WAIT means the writes of its own connection, which had none."""
    with RedisServer("--replicaof", "127.0.0.1 1") as replica:
        admin = redis.Redis(host=replica.host, port=replica.port)
        port = shared.connection_pool.connection_kwargs["port"]
        admin.replicaof("127.0.0.1", port)
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up")
        # A connection that has nothing to wait for.
        assert shared.wait(0, 1) is not None
        replica.pause()
        try:
            shared.set("key", "value")
            assert shared.wait(1, 50) == 0
        finally:
            replica.resume()
        assert shared.wait(1, 20_000) == 1
        admin.close()


def test_wait_works_for_a_user_that_may_not_publish(own_server: RedisServer) -> None:
    """The message is a means only."""
    admin = redis.Redis(host=own_server.host, port=own_server.port)
    admin.acl_setuser(
        "user", enabled=True, nopass=True, keys=["*"], categories=["+@all"],
        commands=["-publish"],
    )  # fmt: skip
    pool = ConnectionPool(
        port=own_server.port, username="user", password="x", auto_pipeline=True
    )
    client = redis.Redis(connection_pool=pool)
    assert client.set("key", "1")
    assert client.wait(0, 1) == 0
    pool.shutdown(5)
    admin.close()


def test_names_can_be_added_to_the_list_and_taken_from_it(make_pool: MakePool) -> None:
    """Slow scripts hold up the others; commands of modules may be safe."""
    policy = AutoPipeline(share=["time", "config"], never_share=["eval", "GET"])
    client = redis.Redis(connection_pool=make_pool(auto_pipeline=policy))
    sharing = parts.sharing(client.connection_pool)
    client.ping()
    assert sharing.allows(("CONFIG", "GET", "maxmemory"))
    assert sharing.allows((b"time",))
    assert not sharing.allows(("eval", "return 1", 0))
    assert chain(client.pipeline()).set("a", "1").execute() == [True]
    assert pool_of(client).stats().size == 1
    assert chain(client.pipeline()).set("a", "1").get("a").execute() == [True, b"1"]
    assert client.get("a") == b"1"
    assert pool_of(client).stats().size == 2


def test_connections_of_the_users_own_are_not_shared(make_pool: MakePool) -> None:
    """What they do when they send or read would not be done."""

    class Mine(redis.Connection):
        sent = 0

        def send_command(self, *args: Any, **kwargs: Any) -> None:
            type(self).sent += 1
            super().send_command(*args, **kwargs)

    class Parser(_HiredisParser):
        pass

    for options in ({"connection_class": Mine}, {"parser_class": Parser}):
        pool = make_pool(auto_pipeline=True, **options)
        client = redis.Redis(connection_pool=pool)
        assert client.ping()
        assert client.ping()
        assert pool.stats().idle == 1, options
    assert Mine.sent > 1


def test_in_the_hub_a_command_is_not_queued(shared: redis.Redis) -> None:
    """Nobody could wait for its reply there."""
    shared.ping()
    found: list[Any] = []

    def callback() -> None:
        found.append(parts.sharing(shared.connection_pool).stand_in())

    callback()
    assert isinstance(found.pop(), StandIn)
    gevent.get_hub().loop.run_callback(callback)
    gevent.sleep(0)
    assert found == [None]


# Several connections, and room.


def test_what_is_under_way_is_bounded() -> None:
    """Others wait in line, first come, first served, with the pool's time limit."""
    with scripted_redis(lambda command: None) as server:
        pool = ConnectionPool(
            port=server.port,
            auto_pipeline=True,
            max_in_flight=2,
            max_waiting=2,
            timeout=0.05,
            socket_timeout=None,
        )
        client = redis.Redis(connection_pool=pool)
        first = gevent.spawn(client.get, "first")
        wait_until(lambda: server.received)
        server.sockets[0].sendall(b"+zero\r\n")
        assert first.get(timeout=5) == b"zero"
        jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(5)]
        errors = [job.get(timeout=5) for job in jobs[2:]]
        assert all(isinstance(each, redis.MaxConnectionsError) for each in errors)
        assert "max_in_flight 2" in str(errors[0])
        assert "max_waiting is reached" in str(errors[-1])
        pipe = chain(client.pipeline(transaction=False)).get("a").get("b")
        assert isinstance(outcome(pipe.execute), redis.MaxConnectionsError)
        waiting = gevent.spawn(client.get, "late")
        wait_until(lambda: parts.multiplexers(pool)[0].room.waiters)
        server.sockets[0].sendall(b"+one\r\n")
        wait_until(lambda: len(server.received) == 4)
        server.sockets[0].sendall(b"+two\r\n+three\r\n")
        assert waiting.get(timeout=5) == b"three"
        assert [job.get(timeout=5) for job in jobs[:2]] == [b"one", b"two"]
        pool.shutdown(5)


# Options.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"auto_pipeline": "yes"}, TypeError, "auto_pipeline must be"),
        (
            {"auto_pipeline": -1},
            ValueError,
            "auto_pipeline must be a whole number of at least 0",
        ),
        ({"auto_pipeline": True, "max_connections": 1}, ValueError, "at least 2"),
        ({"auto_pipeline": 3, "max_connections": 3}, ValueError, "at least 4"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The message names the argument, its value and the rule."""
    with pytest.raises(error, match=words):
        ConnectionPool(**options)


def test_the_limit_cannot_be_set_too_low_later(shared: redis.Redis) -> None:
    """The rule of the constructor holds as long as the pool is used."""
    with pytest.raises(ValueError, match="at least 2"):
        shared.connection_pool.max_connections = 1
    shared.connection_pool.max_connections = 2
    assert shared.ping()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"connections": 0}, ValueError),
        ({"max_size": -1}, ValueError),
        ({"share": "GET"}, TypeError),
        ({"never_share": [1]}, TypeError),
        ({"share": None}, TypeError),
    ],
)
def test_a_wrong_policy_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """A string would be taken for a collection of letters."""
    with pytest.raises(error):
        AutoPipeline(**options)


def test_new_retries_reach_commands_that_share(shared: redis.Redis) -> None:
    """Stand-ins have none of their own."""
    shared.connection_pool.set_retry(retry := Retry(NoBackoff(), 0))
    shared.ping()
    shared.connection_pool.set_retry(other := Retry(NoBackoff(), 1))
    assert parts.sharing(shared.connection_pool).template.retry is other is not retry


def test_redis_py_records_each_command(shared: redis.Redis) -> None:
    """Its metrics ask a connection for host, port and database."""
    conn = parts.sharing(shared.connection_pool).stand_in
    shared.ping()

    class Client(redis.Redis):
        def parse_response(self, connection: Any, name: Any, **options: Any) -> Any:  # type: ignore[override]
            seen.append(connection)
            return super().parse_response(connection, name, **options)

    seen: list[Any] = []
    client = Client(connection_pool=shared.connection_pool)
    client.ping()
    stand_in = seen[0]
    port = shared.connection_pool.connection_kwargs["port"]
    assert (stand_in.host, stand_in.port, stand_in.db) == ("127.0.0.1", port, 0)
    assert stand_in.get_protocol()
    assert "sharing" in repr(stand_in)
    assert not hasattr(stand_in, "__len__")
    assert conn is not None


def test_commands_in_flight_are_counted(shared: redis.Redis) -> None:
    """So that it is seen how full a shared connection is."""
    pool = pool_of(shared)
    job: Any = gevent.spawn(shared.blpop, "none", 0.2)
    counts = set()
    jobs: list[Any] = [gevent.spawn(shared.ping) for _ in range(20)]
    gevent.sleep(0)
    counts.add(pool.core.stats().in_flight)
    gevent.joinall([*jobs, job], raise_error=True)
    counts.add(pool.core.stats().in_flight)
    assert counts == {0, 20}
