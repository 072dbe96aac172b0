"""Sixteen users at several servers: users.py HOST:PORT HOST:PORT...

One of them says a hundred texts, and all of them must get all.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
import redis  # noqa: E402
import socketio  # noqa: E402

TEXTS = [f"text {number}" for number in range(100)]


def connect(address):
    """Return a user, and the list of the texts that it gets."""
    user, got = socketio.Client(), []
    user.on("said", got.append)
    user.connect(f"http://{address}", transports=["websocket"])
    return user, got


def texts(got):
    """Return the texts without the greetings."""
    return sorted(text for text in got if text != "hello")


def main(*addresses):
    """Talk, and print who has got what."""
    users = [connect(addresses[number % len(addresses)]) for number in range(16)]
    speaker, _ = users[0]
    end = time.monotonic() + 30
    # A server subscribes when its first user comes, or after a restart of Redis.
    while time.monotonic() < end and not all(got for _, got in users):
        speaker.emit("say", ["hello"])
        gevent.sleep(0.1)
    speaker.emit("say", TEXTS)
    while time.monotonic() < end and any(len(texts(got)) < 100 for _, got in users):
        gevent.sleep(0.05)
    right = sum(texts(got) == sorted(TEXTS) for _, got in users)
    print(f"{right} of {len(users)} users got {len(TEXTS)} texts")
    with redis.Redis.from_url(
        os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    ) as client:
        names = [each["name"] for each in client.client_list()]
    print(f"connections: {names.count('chat')}")
    gevent.joinall([gevent.spawn(user.disconnect) for user, _ in users])


if __name__ == "__main__":
    main(*sys.argv[1:])
