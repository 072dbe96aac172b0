"""For ``--preload``: the parent imports the project, and gunicorn patches workers."""

from gevent import monkey

monkey.patch_all()

preload_app = True
