"""Tests of what the other tests and the benchmarks rely on."""
