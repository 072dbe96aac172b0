"""What the pool costs and gains, beside the pools in use today.

``python -m benchmarks`` runs the workloads; ``python -m benchmarks.demo`` shows the
pool at work. One file is one workload, and its docstring is the question that it
answers. A workload is a module with a function ``run(scale: Scale) -> Report``.

``rounds`` has the method, ``report`` the tables and targets, ``adapters`` the pools.
``results`` saves runs, ``plots`` draws them, ``page`` shows them in the docs.
"""
