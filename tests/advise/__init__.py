"""``python -m geventpool advise``."""
