"""
What the pool costs and gains beside what people use today.

``python -m benchmarks`` runs the workloads; ``python -m benchmarks.demo`` shows the
pool at its main job. One file is one workload, and its docstring is the question it
answers. A workload is a module with ``run(scale: Scale) -> Report``.

How all of them measure is told in rounds.py, what they say in report.py; runs are kept
by saved.py, set beside each other by compare.py, and drawn by plots.py.
"""
