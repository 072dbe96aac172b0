"""The state of all pools of a process: a page, JSON, metrics and health checks.

::

    from geventpool import status

    application = DispatcherMiddleware(application, {"/pools": status.app()})
"""

from geventpool.status.application import app
from geventpool.status.facts import facts, verdict

__all__ = ["app", "facts", "verdict"]
