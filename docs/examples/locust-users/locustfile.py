"""Users that load a Redis server: locust --headless -u 30 -r 30 -t 10s.

locust patches before it imports this file.
"""

import os
import time

import redis
from locust import User, constant, events, task

import geventpool.redis

# All users of the process share five connections, as the greenlets of the real program.
pool = geventpool.redis.ConnectionPool.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    max_connections=5,
    client_name="users",
)
client = redis.Redis(connection_pool=pool)


class Visitor(User):
    """A visitor that reads and writes."""

    wait_time = constant(0.02)

    def measure(self, name, command, *arguments):
        """Send a command, and report to locust how long it took."""
        error, begin = None, time.perf_counter()
        try:
            getattr(client, command)(*arguments)
        except redis.RedisError as raised:
            error = raised
        self.environment.events.request.fire(
            request_type="redis",
            name=name,
            response_time=(time.perf_counter() - begin) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    @task(3)
    def look(self):
        """Read an article."""
        self.measure("look", "get", "article")

    @task(1)
    def visit(self):
        """Count a visit."""
        self.measure("visit", "incr", "visits")


@events.quitting.add_listener
def report(environment, **_):
    """Print what the server has counted."""
    total = environment.stats.total
    names = [each["name"] for each in client.client_list()]
    print(f"{total.num_failures} of {total.num_requests} requests failed")
    print(f"connections: {names.count('users')}")
