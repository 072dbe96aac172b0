"""Django's commands. They need no gevent: migrate, shell, test..."""

import os
import sys

if sys.argv[1:2] == ["runserver"]:
    # The development server runs on gevent, and so needs patching.
    from gevent import monkey

    monkey.patch_all()

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
