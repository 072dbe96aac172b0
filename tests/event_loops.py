"""Which event loop the tests run on: libev, or libuv (``GEVENT_LOOP=libuv``)."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

__all__ = ["LIBUV", "not_on_libuv"]

LIBUV = "libuv" in gevent.config.loop.__module__


def not_on_libuv(reason: str) -> Any:
    """Mark a test of what libuv, or gevent with libuv, does not have."""
    return pytest.mark.skipif(LIBUV, reason=f"libuv: {reason}")
