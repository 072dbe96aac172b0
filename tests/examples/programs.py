"""Runs the examples of the documentation as a reader would."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
from pathlib import Path

import psutil
from gevent.pool import Pool
from gunicorn.config import KNOWN_SETTINGS  # type: ignore[import-untyped]

from tests.servers import MariaDBServer, Server

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"

#: Seconds that a program may take.
PATIENCE = 60


def variables(folder: str, **more: str) -> dict[str, str]:
    """The environment of a program of an example."""
    paths = os.pathsep.join([str(EXAMPLES / folder), str(ROOT)])
    # Other tests of this process name their own settings.
    rest = {name: os.environ[name] for name in os.environ if "DJANGO" not in name}
    # What a program prints is to be seen at once.
    return {**rest, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **more}


def run(folder: str, *words: str, **more: str) -> str:
    """What ``python WORDS`` prints in the folder of an example; it must end with 0."""
    result = subprocess.run(
        [sys.executable, *words],
        cwd=EXAMPLES / folder,
        env=variables(folder, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def account(server: MariaDBServer, name: str, most: int) -> dict[str, str]:
    """The environment with an account that MariaDB itself refuses more connections."""
    server.ask(
        f"CREATE OR REPLACE USER {name} IDENTIFIED BY '{name}' "
        f"WITH MAX_USER_CONNECTIONS {most}"
    )
    server.ask(f"GRANT ALL ON {server.database}.* TO {name}")
    return {
        "MYSQL_HOST": server.host,
        "MYSQL_PORT": str(server.port),
        "MYSQL_DATABASE": server.database,
        "MYSQL_USER": name,
        "MYSQL_PASSWORD": name,
    }


def _without_control_socket() -> tuple[str, ...]:
    known = {setting.name for setting in KNOWN_SETTINGS}
    return ("--no-control-socket",) if "control_socket_disable" in known else ()


class Program(Server):
    """A program of an example that goes on until it is ended.

    :param folder: the name of the example.
    :param words: the arguments of Python; ``{address}`` in them is replaced.
    :param ready: what its log says as soon as it works; None: it listens.
    :param more: variables of its environment.
    """

    program = "env"
    package = "coreutils"

    def __init__(
        self, folder: str, *words: str, ready: str | None = None, **more: str
    ) -> None:
        super().__init__()
        self.example = folder
        self.words = [
            word.replace("{address}", f"{self.host}:{self.port}") for word in words
        ]
        self.ready = ready
        self.more = more

    def command(self) -> list[str]:
        chosen = variables(self.example, **self.more)
        settings = [f"{name}={value}" for name, value in chosen.items()]
        place = f"--chdir={EXAMPLES / self.example}"
        return [self.path, "-i", place, *settings, sys.executable, *self.words]

    def answers(self) -> bool:
        if self.ready is not None:
            return self.ready in self.log
        return self.listens()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """The status and the body of one response."""
        with contextlib.closing(
            http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        ) as client:
            client.request("GET", path, headers=headers)
            response = client.getresponse()
            return response.status, response.read().decode()

    def get_many(self, path: str, number: int) -> list[tuple[int, str]]:
        """The responses to so many requests, fifty at a time."""
        return list(Pool(50).imap_unordered(self.get, [path] * number))

    def end(self) -> int | None:
        """Ask it to end (SIGTERM), and return its status."""
        process = psutil.Process(self.pid)
        process.terminate()
        return process.wait(PATIENCE)


#: The command. New versions have a socket for commands to the master, which waits a
#: second for it when it ends.
GUNICORN = ("-m", "gunicorn", "--bind", "{address}", *_without_control_socket())


def gunicorn(folder: str, application: str, *words: str, **more: str) -> Program:
    """An application behind gunicorn, which reads the folder's gunicorn.conf.py."""
    words = (*GUNICORN, *words, application)
    return Program(folder, *words, **more)
