"""A queue of mails with huey: huey_consumer mail.queue -k greenlet -w 20."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

import gevent  # noqa: E402
from huey import RedisHuey  # noqa: E402

import geventpool.redis  # noqa: E402

# Each worker waits for tasks on a connection of its own, so the limit is higher than
# the number of workers.
pool = geventpool.redis.ConnectionPool.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    max_connections=25,
    client_name="mail",
)
queue = RedisHuey("mail", connection_pool=pool)


@queue.task()
def send(address):
    """Return the address to which a mail was sent."""
    gevent.sleep(0.01)  # in the place of a mail server
    return address
