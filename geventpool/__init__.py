r"""A connection pool for programs that run on gevent.

::

    from geventpool import Pool, TcpConnection

    pool = Pool(TcpConnection, dict(host="127.0.0.1", port=6379), max_connections=10)

    with pool.connection() as conn:
        conn.send(b"PING\r\n")
        print(conn.recv(4096))

The pools for drivers are imported by name and need their driver:
``geventpool.redis`` and ``geventpool.mysql``.
"""

from geventpool._core.failures import Failure
from geventpool._core.reports import Loan
from geventpool._core.states import CloseReason
from geventpool.admission import Admission
from geventpool.budget import Budget, BudgetShare, BudgetStats
from geventpool.connection import Connection, TcpConnection
from geventpool.connector import Connector, ErrorAction
from geventpool.dbapi import DBAPIConnector
from geventpool.dialing import KeepAlive
from geventpool.errors import (
    BudgetError,
    ConnectionNotFoundError,
    PoolClosedError,
    PoolDeadlockError,
    PoolError,
    PoolExhaustedError,
    PoolOverloadedError,
    TooManyWaitingError,
)
from geventpool.factory import FactoryConnector
from geventpool.labels import Labels, label
from geventpool.listeners import (
    Counters,
    LogListener,
    PoolListener,
    PoolStats,
    Totals,
)
from geventpool.patching import NotPatchedError, NotPatchedWarning
from geventpool.policies import Backoff, Outage, Timeouts
from geventpool.pool import Pool, pools
from geventpool.sockets import is_quiet

__version__ = "0.1.0.dev0"

__all__ = [
    "Admission",
    "Backoff",
    "Budget",
    "BudgetError",
    "BudgetShare",
    "BudgetStats",
    "CloseReason",
    "Connection",
    "ConnectionNotFoundError",
    "Connector",
    "Counters",
    "DBAPIConnector",
    "ErrorAction",
    "FactoryConnector",
    "Failure",
    "KeepAlive",
    "Labels",
    "Loan",
    "LogListener",
    "NotPatchedError",
    "NotPatchedWarning",
    "Outage",
    "Pool",
    "PoolClosedError",
    "PoolDeadlockError",
    "PoolError",
    "PoolExhaustedError",
    "PoolListener",
    "PoolOverloadedError",
    "PoolStats",
    "TcpConnection",
    "Timeouts",
    "TooManyWaitingError",
    "Totals",
    "__version__",
    "is_quiet",
    "label",
    "pools",
]

# Messages, documentation and pickles name public things by this package.
for _name in __all__:
    _thing = globals()[_name]
    if getattr(_thing, "__module__", "").startswith("geventpool."):
        _thing.__module__ = __name__
del _name, _thing
