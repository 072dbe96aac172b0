"""Django's MySQL backend on PyMySQL, with connections from a pool.

::

    DATABASES = {
        "default": {
            "ENGINE": "geventpool.django.mysql",
            "OPTIONS": {"pool": {"max_connections": 20}},
            ...
        }
    }

Without ``OPTIONS["pool"]`` it is Django's own backend on PyMySQL. Nothing has to be
installed as ``MySQLdb``. An installed mysqlclient is not changed.

The files: ``upstream.py`` loads Django's backend on PyMySQL, ``options.py`` reads the
settings, ``pools.py`` holds the pools of the process, ``session.py`` sets up and resets
connections, ``creation.py`` creates test databases, and ``base.py`` has the class that
Django uses.
"""
