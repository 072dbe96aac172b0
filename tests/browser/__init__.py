"""The status page in a real browser: ``make browser-test``."""
