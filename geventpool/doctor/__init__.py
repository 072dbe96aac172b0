"""``python -m geventpool doctor``: what to change in a process, a program, a server."""
