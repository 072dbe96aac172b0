"""Serves the shop with gevent's own server in one process: serve.py [HOST:PORT]."""

from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from shop import app, db, pool  # noqa: E402


def main(address="127.0.0.1:8000"):
    """Serve until SIGTERM, and let requests that have begun end."""
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    # Without a pool of greenlets, stop() would not wait for requests.
    server = WSGIServer(address, app, spawn=1000, log=None)
    server.start()
    stopped.wait()
    # First the server, then what its requests use.
    server.stop(timeout=20)
    pool.shutdown(timeout=5)
    with app.app_context():
        db.engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
