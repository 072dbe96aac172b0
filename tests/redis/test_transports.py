"""How the bytes of a shared connection are read and written."""

from __future__ import annotations

from ssl import SSLWantReadError, SSLWantWriteError, SSLZeroReturnError
from typing import Any

import pytest

from geventpool.redis.transports import TlsTransport


class FakeTls:
    """Raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, *args: Any) -> int:
        raise self.error

    def write(self, data: Any) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "received"),
    [
        (SSLWantReadError(), None),
        (SSLWantWriteError(), None),
        (SSLZeroReturnError(), 0),
    ],
)
def test_tls_waits_for_either_direction(error: Exception, received: Any) -> None:
    """A change of keys may want to write in order to read."""
    transport = TlsTransport.__new__(TlsTransport)
    transport._tls = FakeTls(error)
    transport.buffer = bytearray(10)
    assert transport.receive() == received
    if received is None:
        assert transport.send(b"data") == 0
