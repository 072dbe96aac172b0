"""The settings of gunicorn: gunicorn shop:app."""

from gevent import monkey

# With preload_app, the program is imported before the workers start. gunicorn itself
# patches only the workers, which is too late.
monkey.patch_all()

worker_class = "gevent"
workers = 2
preload_app = True
# Seconds in which requests that have begun may end after SIGTERM or SIGHUP.
graceful_timeout = 20
