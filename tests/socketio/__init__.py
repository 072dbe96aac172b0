"""Tests of python-socketio's Redis manager on a pool."""
