"""The project's commands. Only the server needs gevent, and patches at once."""

import sys

if "runserver" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
