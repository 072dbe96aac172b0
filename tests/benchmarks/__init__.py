"""The benchmarks and the demo run, count right, and report what they saw."""
