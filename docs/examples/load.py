"""Sends requests to a web server from many greenlets at once: load.py URL [REQUESTS].

Then it prints what the page /connections of that server tells: how many connections its
databases have counted.
"""

from gevent import monkey

monkey.patch_all()

import http.client  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

from gevent.pool import Pool  # noqa: E402


def get(url: str) -> tuple[int, str]:
    """Return the status and the text of one response."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        client.request("GET", parts.path)
        response = client.getresponse()
        return response.status, response.read().decode()
    finally:
        client.close()


def main(url: str, requests: int = 200) -> None:
    """Send the requests, and print the result."""
    statuses = Counter(
        status for status, _ in Pool(50).imap_unordered(get, [url] * requests)
    )
    for status, number in statuses.items():
        print(f"status {status}: {number} of {requests} requests")
    parts = urlsplit(url)
    print(get(f"{parts.scheme}://{parts.netloc}/connections")[1].strip())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
