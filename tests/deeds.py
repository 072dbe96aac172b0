"""What a disturbance does to a pool while others use it."""

from __future__ import annotations

import contextlib
from typing import Any

from geventpool import ConnectionNotFoundError, Pool

__all__ = ["close_now", "drain", "drop", "give_back"]


def close_now(pool: Pool[Any]) -> None:
    """Close the pool without waiting for the loans. Never switches."""
    pool.close(timeout=0)


def drain(pool: Pool[Any]) -> None:
    """Renew all connections. Never switches."""
    pool.drain()


def give_back(pool: Pool[Any]) -> None:
    """Give back all connections on loan. Never switches."""
    for conn in pool.lent_connections():
        # Its borrower may have been quicker.
        with contextlib.suppress(ConnectionNotFoundError):
            pool.release(conn, anyone=True)


def drop(pool: Pool[Any]) -> None:
    """Close all connections on loan. Never switches."""
    for conn in pool.lent_connections():
        with contextlib.suppress(ConnectionNotFoundError):
            pool.drop(conn, anyone=True)
