"""``python -m geventpool top`` and ``doctor``."""
