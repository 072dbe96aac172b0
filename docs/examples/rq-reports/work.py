"""The worker: work.py. It ends after SIGTERM."""

from gevent import monkey

monkey.patch_all()

from reports import client, queue  # noqa: E402
from rq import Worker  # noqa: E402

Worker([queue], connection=client).work()
