"""Serves the stock with gevent's own server until SIGTERM: serve.py [HOST:PORT]."""

from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from stock import app, db  # noqa: E402


def main(address="127.0.0.1:8000"):
    """Serve. After SIGTERM requests have another second, and are killed then."""
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    # Without a pool of greenlets, stop() would not wait for requests.
    server = WSGIServer(address, app, spawn=1000, log=None)
    server.start()
    stopped.wait()
    server.stop(timeout=1)
    # The transactions that were interrupted are ended at the server.
    db.pool.close(timeout=5)


if __name__ == "__main__":
    main(*sys.argv[1:])
