"""Whatever is parsed or passed: a working object or a clear refusal, nothing else."""

from __future__ import annotations

import gc
import inspect
import math
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

import gevent
import pytest
from gevent import socket
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymysql.charset import charset_by_name

import geventpool.mysql
import geventpool.redis
from geventpool import Backoff, Outage, Pool, TcpConnection, Timeouts
from geventpool.dialing import KeepAlive
from geventpool.mysql.hosts import Host, split_host
from geventpool.mysql.url import parse_url
from geventpool.policies import ENOUGH, Expiry
from geventpool.redis.cluster import url_of
from geventpool.redis.options import options_of
from geventpool.testing import ScriptedConnector
from tests import parts

fuzz = settings(deadline=None, max_examples=60, database=None, derandomize=True)

harder = settings(fuzz, max_examples=400)

#: Long enough to stand nowhere by accident.
SECRET = "s3cr3t-of-mine"


class Dialled(Exception):
    """A connection would be opened now; with the arguments of its class."""


def resolved(connector: Any) -> Any:
    """The options of PyMySQL's connection."""

    def dial(*, tls: Any, defer_connect: bool, **options: Any) -> None:
        raise Dialled(options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geventpool.mysql.connector.Connection", dial)
        with pytest.raises(Dialled) as dialled:
            connector.open()
    return dialled.value.args[0]


@pytest.fixture(autouse=True, scope="module")
def nothing_left() -> Iterator[None]:
    """No test here may dial, resolve, or leave anything behind."""
    dialled: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        dialled.append(args)
        raise OSError("no connections in here")

    def left() -> tuple[int, int, int]:
        gc.collect()
        greenlets = [
            one for one in gc.get_objects() if issubclass(type(one), gevent.Greenlet)
        ]
        return (
            len(os.listdir("/proc/self/fd")),
            len([one for one in greenlets if not one.dead]),
            gevent.get_hub().loop.activecnt,
        )

    gevent.sleep(0)
    before = left()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", note)
        patch.setattr(socket, "getaddrinfo", note)
        yield
        gevent.idle()
    assert dialled == []
    assert all(now <= then for now, then in zip(left(), before))


def refusal(make: Callable[[], Any]) -> ValueError | TypeError | None:
    """The error that *make* is refused with; None if it works."""
    try:
        made = make()
    except (TypeError, ValueError) as error:
        # Their kin, such as a UnicodeError, is a mistake that nobody foresaw.
        assert type(error) in (TypeError, ValueError), repr(error)
        assert str(error)
        return error
    if isinstance(made, Pool):
        assert repr(made) and made.stats().idle == 0
        made.close(timeout=0)
    return None


# What people write, and what they do not mean to.

WORDS = st.sampled_from(
    [
        *("", " ", "None", "null", "$PORT", "${DB_HOST}", "5s", " 5 ", "1e3", "0x10"),
        *("1_000", "True", "yes", "off", "nan", "inf", "-inf", "-1", "1,5", "٣", "²"),
        *("localhost", "::1", "[::1]", "[", "]", "a" * 300, "..", "münchen.de", "%"),
        *("%zz", "%ff", "%00", "a\0b", "\ud800", "\u200b", "\n", "&", "?", "#", "/"),
    ]
)
TEXT = WORDS | st.text(max_size=8)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, 65536, 2**31]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e300, 5e-324]),
    st.sampled_from([Decimal("1.5"), Decimal("NaN"), 1j, object(), [], {}, b"x", str]),
    TEXT,
)


class Unprintable:
    """A value whose own repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def shows(value: Any) -> str:
    """How a message may be expected to show *value*."""
    try:
        return repr(value)[:ENOUGH]
    except Exception:
        return type(value).__name__


# Numbers and their like: each argument of each policy, with anything.

POLICIES: list[tuple[type[Any], str]] = [
    (policy, name)
    for policy in (Backoff, Expiry, Timeouts, Outage, KeepAlive)
    for name in inspect.signature(policy).parameters
]


@pytest.mark.parametrize(("policy", "name"), POLICIES)
@fuzz
@given(value=ANYTHING)
@example(value=10**5000)
@example(value=-(10**5000))
def test_a_policy_takes_a_number_or_says_why_not(
    policy: type[Any], name: str, value: Any
) -> None:
    """The message names the argument and the value, and ends within a screen."""
    error = refusal(lambda: policy(**{name: value}))
    if error is not None and not (policy is KeepAlive and len(shows(value)) < 4):
        text = str(error)
        assert name in text and " must be " in text
        assert shows(value) in text or policy is KeepAlive or name == "initial"
        assert len(text) < ENOUGH + 300


def test_what_cannot_be_shown_is_named_by_its_kind() -> None:
    """A mistake in somebody's own repr hides nothing of the refusal."""
    error = refusal(lambda: Timeouts(open=Unprintable()))  # type: ignore[arg-type]
    assert "timeouts.open" in str(error) and "Unprintable" in str(error)


@fuzz
@given(
    initial=st.floats(0, allow_infinity=False),
    growth=st.floats(1, allow_infinity=False),
    jitter=st.floats(0, 1),
    attempt=st.integers(0, 10**6),
    retries=st.integers(0, 10**30),
    chance=st.floats(0, 1, exclude_max=True),
)
@example(1.7e308, 1.0, 1.0, 0, 2, 0.9999)
def test_a_pause_is_a_time_that_a_timer_takes(
    initial: float,
    growth: float,
    jitter: float,
    attempt: int,
    retries: int,
    chance: float,
) -> None:
    """Never NaN, never infinite, never negative, whatever the policy is made of."""
    maximum = min(initial * growth, 1.7e308)
    backoff = Backoff(initial, growth, max(initial, maximum), jitter)
    for pause in backoff.delay(attempt, lambda: chance), backoff.total(retries):
        assert math.isfinite(pause) and pause >= 0


@fuzz
@given(idle=st.integers(), interval=st.integers(), count=st.integers())
@example(32767, 32767, 127)
def test_what_keep_alive_takes_a_socket_takes(
    idle: int, interval: int, count: int
) -> None:
    """The system refuses nothing later that the check let through."""
    try:
        options = list(KeepAlive(idle, interval, count).options())
    except ValueError:
        return
    with socket.socket() as sock:
        for level, option, value in options:
            sock.setsockopt(level, option, value)


# Pools: each option of each pool, with anything.


def options_of_pool(kind: Callable[..., Any], *without: str) -> list[str]:
    return [
        name
        for name, each in inspect.signature(kind).parameters.items()
        if name not in without and each.kind is not each.VAR_KEYWORD
    ]


CORE = options_of_pool(Pool, "factory", "options", "initial_connections")
#: An option of PyMySQL, or ours: anything that is no file, no TLS, no converter.
MYSQL = [
    *options_of_pool(geventpool.mysql.ConnectionPool, "source"),
    *("host", "port", "user", "database", "db", "unix_socket", "charset"),
    *("collation", "connect_timeout", "read_timeout", "write_timeout", "sql_mode"),
    *("client_flag", "max_allowed_packet", "init_command", "bind_address"),
    *("cursorclass", "program_name", "compress", "named_pipe", "colour"),
]
REDIS = [
    *options_of_pool(
        geventpool.redis.ConnectionPool, "connection_class", "initial_connections"
    ),
    *("socket_timeout", "socket_connect_timeout"),
]
#: The value of these does not stand in the message, for a reason.
UNTOLD = {
    # Several: the one that is wrong is named. What has no repr of its own says so.
    *("listeners", "hosts", "host_order"),
    # The name is all there is to say.
    "colour",
}


@pytest.mark.parametrize("name", CORE)
@fuzz
@given(value=ANYTHING)
def test_the_pool_takes_an_option_or_says_why_not(name: str, value: Any) -> None:
    """Every option of the core pool, whatever it is given."""
    error = refusal(lambda: Pool(ScriptedConnector(), **{name: value}))
    assert error is None or name in str(error)


@pytest.mark.parametrize("name", MYSQL)
@fuzz
@given(value=ANYTHING)
@example(value=math.nan)
@example(value="a\0b")
@example(value="\ud800")
def test_the_mysql_pool_takes_an_option_or_says_why_not(name: str, value: Any) -> None:
    """Every option, ours and PyMySQL's; when it is passed, not when it is used."""
    pools: list[Any] = []

    def make() -> Any:
        pools.append(geventpool.mysql.ConnectionPool(password=SECRET, **{name: value}))
        return pools[0]

    error = refusal(make)
    if error is not None:
        said = "database" if name == "db" else name
        assert said in str(error) and SECRET not in str(error)
        if name not in UNTOLD and len(shows(value)) < 100:
            assert shows(value) in str(error) or isinstance(value, int), error
        return
    # What was taken is what PyMySQL takes: its constructor does not dial.
    options = {"ssl_disabled": True, **resolved(parts.connector(pools[0]))}
    geventpool.mysql.Connection(
        tls=lambda options, make: None, defer_connect=True, **options
    )


@pytest.mark.parametrize("name", REDIS)
@fuzz
@given(value=ANYTHING)
@example(value=math.nan)
def test_the_redis_pool_takes_an_option_or_says_why_not(name: str, value: Any) -> None:
    """Every option of ours, and those of redis-py's that could stop a timer."""
    make = geventpool.redis.ConnectionPool
    error = refusal(lambda: make(password=SECRET, **{name: value}).core)
    if error is not None:
        assert name in str(error) and SECRET not in str(error)


@fuzz
@given(value=ANYTHING)
@example(value=SECRET)
@example(value=SECRET.encode())
@example(value="пароль" + SECRET)
@example(value=(SECRET,))
def test_no_refusal_of_a_password_shows_it(value: Any) -> None:
    """Of all arguments this is the one whose value stays out of the message."""
    for name in "password", "passwd", "ssl_key_password":
        options = {name: value}
        error = refusal(lambda: geventpool.mysql.ConnectionPool(**options))
        if error is not None:
            assert name in str(error) or "password" in str(error)
            assert SECRET not in str(error)
        elif isinstance(value, str):
            value.encode("latin-1")


@fuzz
@given(
    **{
        name: st.none() | ANYTHING
        for name in ("host", "port", "path", "lifetime", "timeout", "connect_timeout")
    }
)
def test_a_tcp_connection_takes_its_arguments_or_says_why_not(**options: Any) -> None:
    """Which host, which port, how long: or the name of what is wrong."""
    error = refusal(lambda: repr(TcpConnection(**options)))
    if error is not None:
        assert any(name in str(error) for name in options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "a b", "port": 1}, "no space or control character: 'a b'"),
        ({"host": "a\0b", "port": 1}, "no space or control character"),
        ({"path": "/run/a\0b"}, r"path must not contain a null byte: '/run/a"),
        ({"path": b"/run/a\0b"}, r"path must not contain a null byte"),
        ({"path": ""}, "path must not be empty"),
    ],
)
def test_an_address_that_no_system_takes_is_refused(
    options: dict[str, Any], words: str
) -> None:
    """Here, and not when it is dialled; an abstract socket is one."""
    error = refusal(lambda: TcpConnection(**options))
    assert type(error) is ValueError and words in str(error)
    assert refusal(lambda: TcpConnection(path="\0abstract\0").is_connected) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"db": "a", "database": "b"}, "give database or db, not both"),
        ({"passwd": "a", "password": "b"}, "give password or passwd, not both"),
        ({"hosts": [Host]}, "a host must be 'name:port'"),
        ({"user": lambda: 5}, "user must be a string"),
        ({"password": lambda: 5}, "password must be a string or bytes"),
    ],
)
def test_what_contradicts_itself_is_refused(
    options: dict[str, Any], words: str
) -> None:
    """Neither of two is silently preferred; and what is called is asked the same."""
    make = geventpool.mysql.ConnectionPool
    error = refusal(lambda: resolved(parts.connector(make(**options))))
    assert error is not None and words in str(error)


def test_a_keyword_wins_over_the_url_by_any_name() -> None:
    """Also by its old one."""
    named: Any
    for named in {"db": "two"}, {"database": "two"}:
        pool = geventpool.mysql.ConnectionPool("mysql://u:p@h/one", **named)
        assert resolved(parts.connector(pool))["database"] == "two"


def test_a_name_that_cannot_exist_is_an_error_of_the_resolver() -> None:
    """An address too long for the domain name system is no bug of the caller's."""
    for host in "a" * 64 + ".example", "..", "a..b":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda host, *_: host.encode("idna"))
            with pytest.raises(socket.gaierror):
                TcpConnection(host, 80).open()


# Hosts

NAME = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
ADDRESS = st.ip_addresses().map(str)
PORT = st.integers(1, 65535)
HOST = st.builds(Host, NAME | ADDRESS, PORT)


@fuzz
@given(HOST)
def test_a_host_is_read_as_it_is_written(host: Host) -> None:
    """Names, IPv4 and IPv6, with their port."""
    assert split_host(str(host)) == host


@fuzz
@given(ANYTHING, ANYTHING)
@example("h", 0)
@example("", 1)
@example(5, 1)
def test_a_host_takes_a_name_and_a_port(name: Any, port: Any) -> None:
    """Or says which of the two it is not."""
    error = refusal(lambda: Host(name, port))
    assert error is None or "a host's " in str(error)


@fuzz
@given(TEXT)
@example("h:٣٣٠٦")
@example("h:" + "1" * 5000)
@example("[::1]:0003306")
@example("[]:1")
@example(":1")
def test_a_host_is_one_or_is_refused(text: str) -> None:
    """Whatever was let through has a name to ask for and a port that exists."""

    def split() -> None:
        host = split_host(text)
        assert host.name.isprintable() and " " not in host.name
        assert 1 <= host.port <= 65535 and type(host.port) is int

    error = refusal(split)
    assert error is None or shows(text) in str(error)


@fuzz
@given(st.lists(ANYTHING | HOST | st.tuples(TEXT, st.integers()), max_size=3))
@example([("", 1)])
@example([("h", 0)])
@example([("h", 10**5000)])
def test_a_list_of_hosts_is_one_or_is_refused(hosts: list[Any]) -> None:
    """Each entry is named in the refusal as a host."""
    error = refusal(lambda: geventpool.mysql.ConnectionPool(hosts=hosts))
    assert error is None or "host" in str(error)


# MySQL URLs

#: What can be encoded: a lone surrogate can't.
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
#: What PyMySQL can send.
LATIN = st.text(st.characters(max_codepoint=255), max_size=12)


def quoted(text: str) -> str:
    return quote(text, safe="")


@fuzz
@given(
    user=PLAIN,
    password=st.none() | PLAIN,
    hosts=st.lists(HOST, min_size=1, max_size=3),
    database=PLAIN,
    arguments=st.fixed_dictionaries(
        {},
        optional={
            "init_command": PLAIN,
            "read_timeout": st.floats(1e-3, 1e9),
            "client_flag": st.integers(0, 2**32),
            "use_unicode": st.booleans(),
        },
    ),
)
def test_a_mysql_url_says_what_was_written_into_it(
    user: str,
    password: str | None,
    hosts: list[Host],
    database: str,
    arguments: dict[str, Any],
) -> None:
    """Quoted, put together and parsed, everything is the same again."""
    account = quoted(user) + ("" if password is None else f":{quoted(password)}")
    where = ",".join(map(str, hosts))
    url = f"mysql://{account}@{where}/{quoted(database)}?{urlencode(arguments)}"
    expected: dict[str, Any] = dict(arguments)
    if user:
        expected["user"] = user
    if password is not None:
        expected["password"] = password
    if database:
        expected["database"] = database
    if len(hosts) > 1:
        expected["hosts"] = hosts
    else:
        expected |= {"host": hosts[0].name, "port": hosts[0].port}
    assert parse_url(url) == expected


PIECES = st.sampled_from(
    [
        *("mysql:", "mysql+pymysql:", "redis:", "rediss:", "unix:", "http:", "//", "/"),
        *("user", ":", "@", "host", "db1,db2", "[::1]", ":3306", ":0", ":99999", ":x"),
        *("?", "&", "=", "charset=", "timeout=", "read_timeout=nan", "db=1", "#", "%"),
        *("max_connections=", "lifo=", "socket_timeout=", "target=", "\0", " ", "\n"),
    ]
)
URLISH = st.lists(PIECES | TEXT, max_size=10).map("".join) | st.one_of(
    st.builds(
        "{}{}".format,
        st.sampled_from(["mysql://", "redis://", "rediss://", "unix://"]),
        st.lists(PIECES | TEXT, max_size=8).map("".join),
    )
)


@harder
@given(URLISH)
@example("mysql://h?connect_timeout=nan")
@example("mysql://h?charset=nonsense")
@example("mysql://u:%ff@h")
@example("mysql://h?init_command=%ff")
@example("redis://h?socket_timeout=nan")
@example("redis://h?lifo=perhaps")
@example("redis://[h")
def test_a_url_makes_a_pool_or_is_refused(url: str) -> None:
    """Never any other error, whatever it is made of."""
    refusal(lambda: geventpool.mysql.ConnectionPool(url))
    refusal(lambda: geventpool.redis.ConnectionPool.from_url(url).core)


@pytest.mark.parametrize("value", [b"redis://u:p@h", None, 5, Unprintable()])
def test_only_text_is_a_url(value: Any) -> None:
    """Of the rest the kind is named and nothing shown."""
    for make in parse_url, options_of, geventpool.redis.ConnectionPool.from_url:
        error = refusal(lambda: make(value))
        assert type(error) is TypeError and type(value).__name__ in str(error)


BREAKS = st.sampled_from(["", "/", "?", "#", "@", ":", "[", "]", ",", "%", "&", "℀"])


@harder
@given(
    scheme=st.sampled_from(
        [
            *("mysql://", "mysql:", "", "mysq://", "mysql:/", "pg://", "my sql://"),
            *("redis://", "rediss://", "unix://", "redis:"),
        ]
    ),
    user=st.sampled_from(["", "user"]),
    breaks=st.lists(BREAKS, min_size=3, max_size=3),
    rest=st.sampled_from(["@host/db", "@host:port/db", "@", "", "@h?colour=red", "/"]),
)
@example("mysql://", "user", ["", "/", ""], "@host/db")
@example("mysql://", "user", ["", "?", ""], "@host/db")
@example("mysql://", "user", ["@", "?", ""], "@host/db")
@example("mysql://", "user", ["", "", ""], "")
@example("", "user", ["", "", ""], "@host/db")
@example("redis://", "user", ["", "℀", ""], "@host/db")
@example("redis://", "user", ["", "", ""], "")
@example("redis://", "user", ["[", "", "]"], "")
def test_no_refusal_of_a_url_shows_the_password(
    scheme: str, user: str, breaks: list[str], rest: str
) -> None:
    """Also where it was not encoded, and so stands in the place of something else."""
    first, second = "s3cr3t", "0fm1ne"
    password = f"{breaks[0]}{first}{breaks[1]}{second}{breaks[2]}"
    url = f"{scheme}{user}:{password}{rest}"
    for make in (
        geventpool.mysql.ConnectionPool,
        geventpool.redis.ConnectionPool.from_url,
    ):
        error: Any = refusal(lambda: make(url).close)
        if error is not None:
            assert first not in str(error), url
            assert second not in str(error), url


# Redis URLs


@fuzz
@given(
    scheme=st.sampled_from(["redis", "rediss"]),
    user=PLAIN,
    password=PLAIN,
    host=NAME | ADDRESS,
    port=PORT,
    db=st.integers(0, 10**6),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_connections": st.integers(1, 10**6),
            "timeout": st.floats(0, 1e9),
            "lifo": st.booleans(),
            "name": NAME,
            "client_name": NAME,
        },
    ),
)
def test_a_redis_url_says_what_was_written_into_it(
    scheme: str,
    user: str,
    password: str,
    host: str,
    port: int,
    db: int,
    options: dict[str, Any],
) -> None:
    """Quoted, put together and parsed, everything is the same again."""
    account = f"{quoted(user)}:{quoted(password)}@"
    where = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{account}{where}:{port}/{db}?{urlencode(options)}"
    pool = geventpool.redis.ConnectionPool.from_url(url)
    said = pool.connection_kwargs
    assert said["host"] == host and said["port"] == port and said["db"] == db
    assert said.get("username", "") == user and said.get("password", "") == password
    assert pool.max_connections == options.get("max_connections", 100)
    assert parts.option(pool.core, "timeout") == options.get("timeout", 30.0)
    if "name" in options:
        assert pool.core.name == options["name"]
    assert said.get("client_name") == options.get("client_name")


@fuzz
@given(PLAIN, st.integers(0, 100))
def test_the_path_of_a_unix_socket_may_be_anything(name: str, db: int) -> None:
    """It is quoted, and the database stands behind the question mark."""
    path = f"/run/{name}"
    pool = geventpool.redis.ConnectionPool.from_url(f"unix://{quote(path)}?db={db}")
    assert pool.connection_kwargs["path"] == path
    assert pool.connection_kwargs["db"] == db


@fuzz
@given(NAME | ADDRESS, PORT, st.booleans())
def test_a_node_of_a_cluster_is_found_by_the_url_made_for_it(
    host: str, port: int, tls: bool
) -> None:
    """What is written for redis-py is what it reads."""
    said = options_of(url_of(host, port, tls))
    assert (said["host"], said["port"]) == (host, port)
    assert ("connection_class" in said) is tls


def test_all_that_pymysql_takes_is_taken() -> None:
    """The rules of the check are no stricter than what is behind it."""
    for name in "utf8mb4", "latin1", "":
        assert not name or charset_by_name(name)
        for password in "", "ÿ", b"\xff\0", None, lambda: "later":
            assert not refusal(
                lambda: geventpool.mysql.ConnectionPool(
                    *("mysql://u:p@h/d",),
                    charset=name,
                    password=password,
                    db=b"shop",
                    port=0,
                    read_timeout=None,
                    connect_timeout=31536000,
                )
            )
