"""Orders pictures from fifty greenlets, and waits for all: order.py [PICTURES]."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gevent.pool import Pool  # noqa: E402
from pictures import client, shrink  # noqa: E402


def order(number):
    """Return whether the picture was made."""
    name = shrink.send(number).get_result(block=True, timeout=30_000)
    return name == f"{number}-small.png"


def main(pictures=200):
    """Order the pictures, and print what has come back."""
    made = sum(Pool(50).imap_unordered(order, range(pictures)))
    print(f"{made} of {pictures} pictures made")
    names = [each["name"] for each in client.client_list()]
    print(f"connections: {names.count('pictures')}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
