"""A network that loses packets: client, router and server in namespaces of Linux.

Needs Linux, ``ip`` of iproute2, ``unshare`` and ``nsenter`` of util-linux, and either
root or user namespaces that anybody may make. Everything lives in namespaces that end
with the processes that hold them, which end when their standard input does: also if
this process is killed, nothing is left of it. The machine's own network is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import Any

from tests.pauses import sample
from tests.servers import MariaDBServer, RedisServer

__all__ = ["FarMariaDB", "FarRedis", "Network", "why_not"]

PROGRAMS = ("ip", "unshare", "nsenter")
#: Debian puts some of them where only root's PATH leads.
PATHS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

#: Seconds in which a namespace should be there, or a command of ``ip`` done.
PATIENCE = 10.0

SERVER = "10.77.2.2"


class Failed(RuntimeError):
    """The machine does not permit it; says what was tried and what the answer was."""


class Network:
    """A client, a server, and between them a router that may stop forwarding.

    :param bool as_root: False: in a user namespace, which takes no privileges.
    """

    def __init__(self, as_root: bool) -> None:
        self._as_root = as_root
        self.holders: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Network:
        try:
            for name in "client", "router", "server":
                self._hold(name)
            self._connect("client", "10.77.1")
            self._connect("server", "10.77.2")
            self.mend()
        # Also a KeyboardInterrupt must leave nothing behind.
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for holder in self.holders.values():
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(PATIENCE)
        self.holders.clear()

    def inside(self, name: str) -> list[str]:
        """What must stand before a command for it to run in a namespace."""
        first = next(iter(self.holders.values()))
        within = ["nsenter", "-t", str(self.holders[name].pid), "-n"]
        if self._as_root:
            return [*within, "--"]
        # All are in the user namespace of the first.
        user = ["nsenter", "-t", str(first.pid), "-U", "--preserve-credentials", "--"]
        return [*user, *within, "--"]

    # What can happen to it

    def mend(self) -> None:
        """Let packets through, both ways."""
        self.run("router", "ip", "link", "set", "server", "up")
        self._forward(True)

    def silence(self) -> None:
        """Drop every packet silently, as a firewall does that has forgotten."""
        self._forward(False)

    def unplug(self) -> None:
        """Pull the server's cable: the router tells each sender of it."""
        self.run("router", "ip", "link", "set", "server", "down")

    def lose(self, share: int) -> None:
        """Lose so many per cent of the packets on their way to the server.

        :raises Failed: the kernel has no ``netem``, or there is no ``tc``.
        """
        queue = ["dev", "server", "root", "netem", "loss", f"{share}%"]
        self.run("router", "tc", "qdisc", "replace", *queue)

    def _forward(self, does: bool) -> None:
        setting = "/proc/sys/net/ipv4/ip_forward"
        self.run("router", "sh", "-c", f"echo {int(does)} > {setting}")

    # How it is made

    def run(self, name: str, *command: str) -> None:
        """Run a command in a namespace.

        :raises Failed: it is not there or did not succeed.
        """
        _run([*self.inside(name), *command])

    def _hold(self, name: str) -> None:
        make = ["unshare", "-n", "cat"]
        if not self._as_root and not self.holders:
            make = ["unshare", "-U", "-r", "-n", "cat"]
        elif not self._as_root:
            [first, *_] = self.holders.values()
            joined = ["-U", "--preserve-credentials", "--"]
            make = ["nsenter", "-t", str(first.pid), *joined, *make]
        holder = subprocess.Popen(
            make,
            env={**os.environ, "PATH": PATHS},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.holders[name] = holder
        deadline = time.monotonic() + PATIENCE
        while not self._is_apart(holder.pid):
            if holder.poll() is not None or time.monotonic() > deadline:
                assert holder.stderr is not None
                raise Failed(f"{' '.join(make)}: {holder.stderr.read().decode()}")
            sample(0.005)
        assert holder.stderr is not None
        holder.stderr.close()

    def _is_apart(self, pid: int) -> bool:
        """Has the holder a network of its own already?"""
        try:
            mine, its = (
                os.readlink(f"/proc/{who}/ns/net") for who in ("self", str(pid))
            )
            # The program that will hold it: before, nsenter is on its way in.
            with open(f"/proc/{pid}/comm") as comm:
                return mine != its and comm.read().strip() == "cat"
        except OSError:
            return False

    def _connect(self, name: str, prefix: str) -> None:
        """A cable from the router to the client or server, and addresses."""
        pid = str(self.holders[name].pid)
        cable = ["link", "add", name, "type", "veth", "peer", "name", "out"]
        self.run("router", "ip", *cable, "netns", pid)
        self.run("router", "ip", "addr", "add", f"{prefix}.1/24", "dev", name)
        self.run("router", "ip", "link", "set", name, "up")
        self.run(name, "ip", "addr", "add", f"{prefix}.2/24", "dev", "out")
        for device in "lo", "out":
            self.run(name, "ip", "link", "set", device, "up")
        self.run(name, "ip", "route", "add", "default", "via", f"{prefix}.1")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": PATHS},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")


def why_not(as_root: bool) -> str | None:
    """Why such a network can't be made here; None if it can."""
    for program in PROGRAMS:
        if shutil.which(program, path=PATHS) is None:
            return f"there is no {program} (Debian: iproute2, util-linux)"
    if as_root and os.geteuid() != 0:
        return "network namespaces beside the machine's own need root"
    try:
        with Network(as_root):
            return None
    except Failed as failure:
        return f"not permitted here: {failure}"


class FarRedis(RedisServer):
    """A redis-server at the far end of a network; forgets dead clients soon."""

    host = SERVER

    def __init__(self, network: Network) -> None:
        self._network = network
        super().__init__("--protected-mode", "no", "--tcp-keepalive", "1")

    def command(self) -> list[str]:
        return [*self._network.inside("server"), *super().command()]


class FarMariaDB(MariaDBServer):
    """A mariadbd at the far end of a network."""

    host = SERVER

    def __init__(self, network: Network, **options: Any) -> None:
        self._network = network
        super().__init__(**options)

    def command(self) -> list[str]:
        return [*self._network.inside("server"), *super().command()]
