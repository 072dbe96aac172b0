"""The rules of geventpool, each held by a test."""
