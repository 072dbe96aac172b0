"""A connection pool for programs that run on gevent."""

__version__ = "0.1.0"
