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
installed as ``MySQLdb``, and a mysqlclient that is there stays what it is.

The files: ``upstream.py`` has Django's backend on PyMySQL, ``options.py`` reads the
settings, ``pools.py`` knows which pools there are, ``session.py`` cleans connections,
``creation.py`` minds test databases, and ``base.py`` is what Django asks for.
"""
