"""Orders mails from fifty greenlets, and waits for all: order.py [MAILS]."""

from mail import pool, queue, send  # isort: skip (it patches)

import sys

import redis
from gevent.pool import Pool


def order(number):
    """Return whether the mail was sent."""
    address = f"user{number}@example.org"
    return send(address).get(blocking=True, timeout=30) == address


def main(mails=200):
    """Order the mails, and print what has come back."""
    sent = sum(Pool(50).imap_unordered(order, range(mails)))
    print(f"{sent} of {mails} mails sent, {len(queue)} left")
    names = [each["name"] for each in redis.Redis(connection_pool=pool).client_list()]
    print(f"connections: {names.count('mail')}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
