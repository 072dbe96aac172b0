"""A program for servers with several processes, and the processes that serve it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
from typing import Any

from tests.servers import Server

__all__ = ["APPLICATION", "UWSGI", "WebServer", "gunicorn", "uwsgi"]

#: The program of this package, as servers name it.
APPLICATION = "tests.web.application"
#: The program of the package pyuwsgi; empty if it is not installed.
UWSGI = shutil.which("uwsgi", path=os.path.dirname(sys.executable)) or ""


class WebServer(Server):
    """A process that serves a program on a port of its own.

    :param words: the arguments of the executable; ``{address}`` is replaced.
    :param variables: of the environment.
    :param executable: what serves; Python if not given.
    """

    program = "env"
    package = "coreutils"

    def __init__(
        self,
        words: list[str],
        variables: dict[str, str],
        executable: str = sys.executable,
    ) -> None:
        super().__init__()
        self.executable = executable
        self.words = words
        self.variables = variables

    def command(self) -> list[str]:
        settings = [f"{name}={value}" for name, value in self.variables.items()]
        words = [word.format(address=f"{self.host}:{self.port}") for word in self.words]
        return [self.path, *settings, self.executable, *words]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the answer to one request, on a connection of its own."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            client.request("GET", path)
            response = client.getresponse()
            body = response.read()
        finally:
            client.close()
        return response.status, json.loads(body) if response.status == 200 else body

    def reload(self) -> None:
        """Have all workers replaced by new ones."""
        os.kill(self.pid, signal.SIGHUP)


def gunicorn(*words: str, **variables: str) -> WebServer:
    """The program of this package behind gunicorn with workers of gevent."""
    return WebServer(
        [
            *("-m", "gunicorn", "-k", "gevent", "--bind", "{address}"),
            *("--graceful-timeout", "20", "-c", "python:tests.web.configuration"),
            *(*words, APPLICATION),
        ],
        variables,
    )


def uwsgi(*words: str, **variables: str) -> WebServer:
    """The program of this package behind uWSGI with gevent.

    uWSGI forks without Python, so no hook of Python is called.
    """
    # It is a script of the environment. To reload, uWSGI starts its binary again: by
    # default the interpreter that the environment was made with, which has no uWSGI.
    again = "--binary-path", sys.executable
    return WebServer(
        [
            *("--http-socket", "{address}", "--master", "--die-on-term"),
            *("--gevent", "50", "--gevent-early-monkey-patch", "-H", sys.prefix),
            *("--module", APPLICATION, *again, *words),
        ],
        variables,
        UWSGI,
    )
