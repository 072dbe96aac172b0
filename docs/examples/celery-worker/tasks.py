"""The application and its tasks: celery -A tasks worker -P gevent -c 100."""

import os

import redis
from celery import Celery

import geventpool.celery
import geventpool.redis

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

# One pool for the broker and one for the results, each with at most five connections.
geventpool.celery.install(max_connections=5)

app = Celery("tasks", broker=URL, backend=URL)
app.conf.update(
    # The names by which send.py counts the connections at the server.
    broker_transport_options={"client_name": "broker"},
    redis_client_name="results",
    broker_connection_retry_on_startup=True,
)

# What the tasks themselves use.
counters = redis.Redis(
    connection_pool=geventpool.redis.ConnectionPool.from_url(
        URL, max_connections=5, client_name="tasks"
    )
)


@app.task
def count(word):
    """Return how often the word has been counted, this time included."""
    return counters.hincrby("words", word, 1)
