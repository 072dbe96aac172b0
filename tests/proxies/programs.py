"""The proxies, started as tests start servers."""

from __future__ import annotations

from tests.servers import Server, free_port

__all__ = ["Haproxy", "Twemproxy"]


class Haproxy(Server):
    """A haproxy before some servers of one kind, for TCP.

    :param servers: the first is used as long as it listens, then the next.
    :param idle: milliseconds after which it closes a connection without traffic.
    """

    program = "haproxy"
    package = "haproxy"

    def __init__(self, *servers: Server, idle: int = 60_000) -> None:
        super().__init__()
        lines = [
            "global",
            "    maxconn 200",
            "defaults",
            "    mode tcp",
            "    timeout connect 2s",
            f"    timeout client {idle}ms",
            f"    timeout server {idle}ms",
            "listen servers",
            f"    bind {self.host}:{self.port}",
            "    option redispatch",
        ]
        for number, server in enumerate(servers):
            role = " backup" if number else ""
            lines.append(
                f"    server s{number} {server.host}:{server.port} check inter 100ms "
                f"fall 1 rise 1 on-marked-down shutdown-sessions{role}"
            )
        self.settings = self.folder / "haproxy.cfg"
        self.settings.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [self.path, "-db", "-f", str(self.settings)]

    def answers(self) -> bool:
        return self.listens()


class Twemproxy(Server):
    """A twemproxy (nutcracker) before one Redis server.

    It refuses commands that it does not know, HELLO and CLIENT among them.
    """

    program = "nutcracker"
    package = "nutcracker"

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.settings = self.folder / "nutcracker.yml"
        self.settings.write_text(
            "servers:\n"
            f"  listen: {self.host}:{self.port}\n"
            "  redis: true\n"
            "  hash: fnv1a_64\n"
            "  distribution: ketama\n"
            "  servers:\n"
            f"   - {server.host}:{server.port}:1\n"
        )

    def command(self) -> list[str]:
        # It always publishes its statistics on a port.
        return [self.path, "-c", str(self.settings), "-s", str(free_port())]

    def answers(self) -> bool:
        return self.listens()
