"""``geventpool.status``."""
