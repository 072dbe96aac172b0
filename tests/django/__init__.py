"""The Django backend, alone and under a small project served by gunicorn."""
