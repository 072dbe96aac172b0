"""A WSGI program with one pool on a real Redis, set up by its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import redis

import geventpool.prometheus
from geventpool import Budget
from geventpool.redis import ConnectionPool

HOST, PORT = "127.0.0.1", int(os.environ["REDIS_PORT"])
TOTAL = int(os.environ.get("TOTAL", "4"))
PATH = os.environ.get("BUDGET")

pool = ConnectionPool(
    host=HOST,
    port=PORT,
    max_connections=TOTAL,
    timeout=30,
    name="web",
    client_name="web",
    budget=None if PATH is None else Budget(PATH, TOTAL),
)
client = redis.Redis(connection_pool=pool)

if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    geventpool.prometheus.register(interval=0.05)


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> list[bytes]:
    """Use a connection once; with ``/wait``, until something is in the list."""
    if environ["PATH_INFO"] == "/wait":
        client.blpop(["gate"], timeout=40)
    elif environ["PATH_INFO"] == "/use":
        client.incr("visits")
    body = json.dumps({"process": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
