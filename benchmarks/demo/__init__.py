"""
The pool at its main job: ``make demo``, or ``python -m benchmarks.demo``.

Some hundred greenlets share ten connections to Redis and ten to MariaDB. Greenlets
are killed and Redis is restarted under their feet; the table shows what becomes of it,
and the same is then done to the pools in use today.
"""
