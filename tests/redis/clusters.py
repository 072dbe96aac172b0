"""A Redis cluster of six processes on loopback."""

from __future__ import annotations

from typing import Any

import gevent

from geventpool.testing import wait_until
from tests.servers import RedisServer

__all__ = ["Cluster"]

SLOTS = 16384


class Cluster:
    """Three masters that share the slots, each with a replica."""

    def __init__(self) -> None:
        self.nodes = [
            RedisServer(
                *("--cluster-enabled", "yes"),
                *("--cluster-config-file", "{folder}/nodes.conf"),
                *("--cluster-node-timeout", "1000"),
                *("--cluster-replica-validity-factor", "0"),
                # A replica that has heard nothing yet is hidden from clients.
                *("--repl-ping-replica-period", "1"),
                *("--repl-diskless-sync-delay", "0"),
            )
            for _ in range(6)
        ]
        self.masters = self.nodes[:3]

    def __enter__(self) -> Cluster:
        try:
            gevent.joinall([gevent.spawn(node.start) for node in self.nodes])
            self._join()
        # Also a KeyboardInterrupt must not leave processes behind.
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self.nodes:
            node.close()

    def _join(self) -> None:
        for number, master in enumerate(self.masters):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", node.host, node.port)
        wait_until(lambda: all(len(self.view(node)) == 6 for node in self.nodes))
        for master, replica in zip(self.masters, self.nodes[3:]):
            replica.ask("CLUSTER", "REPLICATE", self.id_of(master))
        wait_until(self.is_well)

    def is_well(self) -> bool:
        """Do all processes that run agree that the cluster works, replicas too?"""
        return all(self._agrees(node) for node in self.nodes if node.running)

    def _agrees(self, node: RedisServer) -> bool:
        view = self.view(node)
        # With short time limits a process may look dead for a moment.
        fine = not any("fail" in each["flags"] for each in view.values())
        # It may know all the others and yet refuse commands for a while.
        fine = fine and node.ask("CLUSTER INFO")["cluster_state"] == "ok"
        # A replica is shown to clients only when it has got its first data.
        slots = node.ask("CLUSTER SLOTS")
        return fine and len(slots) >= 3 and all(len(each) > 3 for each in slots)

    def view(self, node: RedisServer) -> dict[str, dict[str, Any]]:
        """The cluster as *node* sees it, by address."""
        nodes: dict[str, dict[str, Any]] = node.ask("CLUSTER NODES")
        return nodes

    def id_of(self, node: RedisServer) -> str:
        return str(node.ask("CLUSTER", "MYID"))

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give one empty slot to another master."""
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))
        for node in self.masters:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))
