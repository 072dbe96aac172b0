"""The soak: storms without end, each with a new seed, over our pools.

    python -m tests.failures.soak --minutes 10

A line for each storm; at the first oracle that breaks it stops and says by what command
that storm is repeated. All of it is one process, so what leaks slowly is seen as well:
now and then the memory is weighed, and must be what it was when all was warm, but for a
slack.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from tests.failures import cells
from tests.failures.oracles import Footprint, Outcome, broken
from tests.failures.peers import CONTESTANTS
from tests.failures.sites import SITES, Site
from tests.failures.storms import STORMS, rage

#: Ours, those included that are told to wait.
POOLS = [name for name, make in CONTESTANTS.items() if make.documented is not None]

#: Storms between two weighings, and until caches, arenas and the like have their size.
WEIGHED_EVERY, WARM_AFTER = 15, 45

#: Bytes, and blocks of memory, that may come on top of that.
MORE_BYTES, MORE_BLOCKS = 48 * 2**20, 60_000


@dataclass
class Weight:
    """What this process weighs between two storms."""

    bytes: int
    footprint: Footprint

    @classmethod
    def take(cls) -> Weight:
        """Now."""
        return cls(psutil.Process().memory_info().rss, Footprint.take())

    def excess_over(self, before: Weight) -> list[str]:
        """What has grown beyond its slack."""
        found = [
            f"{count} {name} more"
            for name, count in self.footprint.left_since(before.footprint).items()
            if name != "blocks of memory"
        ]
        blocks = self.footprint.blocks - before.footprint.blocks
        if blocks > MORE_BLOCKS:
            found.append(f"{blocks} blocks of memory more")
        if self.bytes > before.bytes + MORE_BYTES:
            found.append(f"{(self.bytes - before.bytes) / 2**20:.0f} MB more")
        return found


class Soak:
    """One run of it.

    :param chance: where pools, storms, lengths and seeds come from.
    :param pools: which.
    :param storms: which.
    :param longest: seconds of trouble in a storm, at most.
    """

    def __init__(
        self,
        chance: random.Random,
        pools: list[str],
        storms: list[str],
        longest: float = 2.0,
    ) -> None:
        self._chance = chance
        self._cells = [(storm, pool) for storm in storms for pool in pools]
        self._longest = longest
        self._sites: dict[str, Site[Any]] = {}
        self._weight: Weight | None = None
        self.storms = 0
        self.served = 0

    def run(self, seconds: float) -> str | None:
        """What has broken, and how to repeat it; None: nothing, for so long."""
        deadline = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            self._build_sites(stack)
            while True:
                for storm, pool in self._shuffled():
                    if time.monotonic() > deadline:
                        return None
                    why = self._storm(storm, pool)
                    if why is None and self.storms % WEIGHED_EVERY == 0:
                        why = self._weigh()
                    if why is not None:
                        return why

    def _build_sites(self, stack: contextlib.ExitStack) -> None:
        for name in {CONTESTANTS[pool].site for _, pool in self._cells}:
            server_kind, site_kind = SITES[name]
            server = stack.enter_context(server_kind())
            self._sites[name] = stack.enter_context(site_kind(server))

    def _shuffled(self) -> Iterator[tuple[str, str]]:
        self._chance.shuffle(self._cells)
        yield from self._cells

    def _storm(self, storm: str, pool: str) -> str | None:
        seed = self._chance.randrange(10**6)
        seconds = round(self._chance.uniform(0.3, self._longest), 2)
        # Patience is measured without interruptions as well.
        harsh = self._chance.random() < 0.7
        make = CONTESTANTS[pool]
        started = time.monotonic()
        site = self._sites[make.site]
        outcome = rage(STORMS[storm], make, site, seed, seconds, harsh)
        self.storms += 1
        self.served += outcome.account.served
        self._tell(outcome, seconds, harsh, time.monotonic() - started)
        if not broken(outcome):
            return None
        return (
            f"{cells.details(outcome)}\n"
            f"repeat it with: {cells.repeat(outcome, seconds, harsh)}"
        )

    def _tell(self, outcome: Outcome, seconds: float, harsh: bool, took: float) -> None:
        account = outcome.account
        print(
            f"{time.strftime('%H:%M:%S')} {outcome.storm:9} {outcome.pool:14} "
            f"seed {outcome.seed:6} {seconds:4.2f} s {'harsh' if harsh else '     '} "
            f"{account.served:6} served, {cells.words(outcome)} ({took:.1f} s)",
            flush=True,
        )

    def _weigh(self) -> str | None:
        weight = Weight.take()
        print(f"{self.storms} storms: {weight.bytes / 2**20:.0f} MB", flush=True)
        if self._weight is None:
            if self.storms >= WARM_AFTER:
                self._weight = weight
            return None
        excess = weight.excess_over(self._weight)
        if not excess:
            return None
        return f"since it was warm, after {self.storms} storms: " + ", ".join(excess)


def main(words: list[str] | None = None) -> int:
    """The exit status: 1 if an oracle has broken."""
    parser = argparse.ArgumentParser("python -m tests.failures.soak")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="of all the seeds")
    parser.add_argument("--pool", action="append", choices=POOLS)
    parser.add_argument("--storm", action="append", choices=STORMS)
    args = parser.parse_args(words)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(f"soak of {args.minutes:g} minutes, seed {seed}", flush=True)
    soak = Soak(
        random.Random(seed), args.pool or list(POOLS), args.storm or list(STORMS)
    )
    why = soak.run(60 * args.minutes)
    print(f"{soak.storms} storms, {soak.served} requests served", flush=True)
    if why is not None:
        print(why, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
