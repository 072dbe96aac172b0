"""The pool at its main job: ``make demo``, or ``python -m benchmarks.demo``.

300 greenlets share 10 connections to Redis and 10 to MariaDB. Greenlets are killed, and
Redis is restarted. Then exactly the same is done to the pools in use today, with the
same clients, the same length of everything, and the defaults of every pool.
"""
