"""Tests of Celery on pools that all greenlets share."""
