"""The pools for redis-py, on real servers."""
