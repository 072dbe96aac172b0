"""Tests of the budget: one limit on the connections of all processes of a host."""
