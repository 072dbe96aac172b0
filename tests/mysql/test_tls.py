"""TLS: one context for a pool, and the same manners as PyMySQL alone."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import gevent
import pymysql
import pytest
from gevent.event import Event
from pymysql import err

from geventpool.mysql.tls import TLSContexts, _outcome
from geventpool.testing import no_switch, wait_until
from tests.mysql.conftest import rows, value
from tests.mysql.test_reset import use
from tests.servers import MariaDBServer, certificates

#: PyMySQL 1.1 uses TLS only when told to.
HAS_PREFERRED = pymysql.VERSION[:2] >= (1, 2)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Files of an authority, and of a certificate it has issued for 127.0.0.1."""
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(authority) -> Iterator[MariaDBServer]:
    """A mariadbd that offers TLS."""
    with MariaDBServer(**authority) as server:
        yield server


@pytest.fixture()
def made(monkeypatch):
    """The contexts that are made."""
    contexts = []
    make = ssl.create_default_context

    def note(*args, **options):
        contexts.append(make(*args, **options))
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", note)
    return contexts


def crowd(pool, number):
    """So many connections at a time; what each says of its cipher."""

    def borrow():
        with pool.connection() as conn:
            ciphers.append(rows(conn, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1])
            if len(ciphers) == number:
                all_there.set()
            all_there.wait()

    ciphers: list[Any] = []
    all_there = Event()
    gevent.joinall([gevent.spawn(borrow) for _ in range(number)], raise_error=True)
    assert len(ciphers) == number
    return set(ciphers)


def test_one_context_serves_all_connections(make_pool, tls_server, authority, made):
    """And it was made outside of the loop."""
    pool = make_pool(
        **{**tls_server.client_options, "ssl_ca": authority["ssl_ca"]},
        ssl_verify_cert=True,
        ssl_verify_identity=True,
        max_connecting=5,
    )
    assert "" not in crowd(pool, 5)
    assert len(made) == 1
    assert made[0].verify_mode is ssl.CERT_REQUIRED


def test_tls_is_preferred(make_pool, tls_server, mariadb_server, made):
    """Where the server offers it, it is used; where not, no context is made."""
    assert crowd(make_pool(), 2) == {""}
    assert made == []
    ciphers = crowd(make_pool(**tls_server.client_options), 3)
    assert ("" not in ciphers) == HAS_PREFERRED
    assert len(made) == HAS_PREFERRED


def test_tls_can_be_required(make_pool, mariadb_server, authority):
    """Then a server without it is refused; PyMySQL 1.1 makes do without."""
    pool = make_pool(ssl_ca=authority["ssl_ca"])
    if HAS_PREFERRED:
        with pytest.raises(err.OperationalError, match="SSL"):
            pool.acquire()
    else:
        assert crowd(pool, 1) == {""}


def test_a_context_of_ones_own_is_used(make_pool, tls_server, authority, made):
    """It is nobody else's business."""
    context = ssl.create_default_context(cafile=authority["ssl_ca"])
    made.clear()
    assert "" not in crowd(make_pool(**tls_server.client_options, ssl=context), 2)
    assert made == []


def test_a_tls_connection_is_asked_too(make_pool, tls_server, authority):
    """Session tickets are no reason to close it; the end of the session is."""
    pool = make_pool(
        **tls_server.client_options, ssl_ca=authority["ssl_ca"], max_connections=1
    )
    with pool.connection() as conn:
        value(conn, "SELECT 1")
    with pool.connection() as again:
        assert again is conn
        tls_server.ask(f"KILL {conn.thread_id()}")
    with pool.connection() as other:
        assert value(other, "SELECT 2") == 2
        assert other is not conn


def test_a_context_that_cannot_be_made_is_tried_again():
    """The file may be there next time."""
    contexts, outcomes = TLSContexts(), [FileNotFoundError("ca.pem"), "context"]

    def make(options):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(FileNotFoundError):
        contexts({"ca": "ca.pem"}, make)
    assert contexts({"ca": "ca.pem"}, make) == "context"
    assert contexts({"ca": "ca.pem"}, make) == "context"


def test_an_error_in_the_thread_is_handed_over():
    """The hub prints what ends a thread's work; here it is somebody's to raise."""
    assert _outcome(str, 5) == ("5", None)
    context, error = _outcome(int, "five")
    assert context is None and isinstance(error, ValueError)


def test_no_certificate_no_connection(make_pool, tls_server):
    """A file that is missing is the borrower's error, not a silent downgrade."""
    pool = make_pool(**tls_server.client_options, ssl_ca="/does/not/exist")
    with pytest.raises(OSError):
        pool.acquire()


def test_a_reset_is_sent_ahead_over_tls_too(make_pool, tls_server, authority):
    """There a socket that is asked too early answers in another way."""
    pool = make_pool(
        **tls_server.client_options,
        ssl_ca=authority["ssl_ca"],
        max_connections=1,
        autocommit=True,
    )
    use(pool)
    conn = pool.acquire()
    value(conn, "SELECT 1")
    rows(conn, "SET @used=1")
    with no_switch():
        pool.release(conn)
    assert conn.pending and conn.ask is None
    wait_until(lambda: conn.is_quiet() and not conn.pending, "replies")
    assert value(pool.acquire(), "SELECT @used") is None
