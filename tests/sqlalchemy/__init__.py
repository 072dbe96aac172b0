"""Tests of geventpool.sqlalchemy."""
