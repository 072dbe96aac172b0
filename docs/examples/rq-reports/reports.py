"""The queue, and the work that is done for each entry."""

import os

import redis
from rq import Queue

import geventpool.redis

pool = geventpool.redis.ConnectionPool.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    max_connections=5,
    client_name="reports",
)
client = redis.Redis(connection_pool=pool)
queue = Queue("reports", connection=client)


def write(number):
    """Return the report. Runs in a process of its own, which the worker forks."""
    client.incr("written")
    return f"report {number}"
