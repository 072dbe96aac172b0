"""A queue of pictures with dramatiq: dramatiq-gevent pictures -p 2 -t 8."""

import os

import dramatiq
import gevent
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

import geventpool.redis

pool = geventpool.redis.ConnectionPool.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    max_connections=10,
    client_name="pictures",
)
client = redis.Redis(connection_pool=pool)
broker = RedisBroker(client=client)
broker.add_middleware(Results(backend=RedisBackend(client=client)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def shrink(number):
    """Return the name of a smaller picture."""
    gevent.sleep(0.01)  # in the place of some work
    return f"{number}-small.png"
