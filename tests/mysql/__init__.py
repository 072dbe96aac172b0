"""Tests of the pool of PyMySQL connections."""
