"""Cells: one storm over one contestant, in words; if need be in a process of its own.

A pool that hangs, or makes everything hang, must not stop the others, so each cell of
the table is a process with a time limit, its own servers and its own folder.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tests.apart import GivenUpError, answer_of
from tests.failures.load import Account
from tests.failures.oracles import Outcome, broken
from tests.failures.peers import CONTESTANTS
from tests.failures.sites import LIMIT, SITES
from tests.failures.storms import STORMS, rage

#: Seconds a cell may take beside its trouble, the start of the servers included.
GIVEN_UP_AFTER = 40.0


def run_here(
    storm: str, pool: str, seed: int, seconds: float, harsh: bool = False
) -> Outcome:
    """The outcome of one cell, in this process, with a server of its own."""
    make = CONTESTANTS[pool]
    server_kind, site_kind = SITES[make.site]
    with server_kind() as server, site_kind(server, random.Random(seed)) as site:
        return rage(STORMS[storm], make, site, seed, seconds, harsh)


def run_apart(
    storm: str,
    pool: str,
    seed: int,
    seconds: float,
    harsh: bool = False,
    patience: float | None = None,
) -> Outcome:
    """The same in a process of its own.

    :param patience: seconds after which it is given up; None: as long as it may need.
    """
    if patience is None:
        patience = seconds + GIVEN_UP_AFTER
    words = [storm, "--pool", pool, "--seed", str(seed), "--seconds", str(seconds)]
    try:
        said = answer_of(
            ["-m", "tests.failures", "--json", *words, *["--harsh"] * harsh], patience
        )
    except GivenUpError as error:
        return Outcome(storm, pool, seed, given_up=str(error))
    return from_fields(said)


def to_json(outcome: Outcome) -> str:
    """As one line."""
    return json.dumps(asdict(outcome))


def from_fields(fields: dict[str, Any]) -> Outcome:
    """The outcome that JSON of :func:`to_json` describes."""
    account = fields.pop("account")
    account["wrong"] = [tuple(pair) for pair in account["wrong"]]
    return Outcome(**fields, account=Account(**account))


def words(outcome: Outcome) -> str:
    """What happened, for the table."""
    if outcome.given_up:
        return outcome.given_up
    account = outcome.account
    parts = [what for what in broken(outcome) if "asleep" not in what]
    if account.asleep:
        # They are why places are missing, more often than not; so they come first.
        parts.insert(0, f"{account.asleep} asleep forever")
    if outcome.places == outcome.answers == LIMIT:
        parts.insert(0, f"all {LIMIT} places")
    errors = account.failed
    parts.append(f"{errors} errors" if errors != 1 else "1 error")
    if account.refused:
        parts.append(f"{account.refused} refused")
    return ", ".join(parts)


def details(outcome: Outcome) -> str:
    """What happened, in full."""
    account = outcome.account
    lines = [
        f"{outcome.storm} over {outcome.pool}, seed {outcome.seed}: {words(outcome)}",
        f"  {account.asked} asked, {account.served} served, {account.refused} refused,"
        f" {account.interrupted} interrupted; errors until {account.recovery:.2f} s"
        " after",
        f"  longest acquire {account.longest_wait:.2f} s, loop late by at most"
        f" {account.lag:.2f} s; at most {outcome.seen_by_server} sockets as the server"
        f" counts ({outcome.samples} samples), {outcome.seen_by_proxy} as the proxy"
        f" does; {outcome.dials} dials, at most {outcome.most_dialling} at a time",
    ]
    for kind, count in sorted(account.errors.items()):
        lines.append(f"  {count:6} x {kind}")
    for asked, said in account.wrong[:5]:
        lines.append(f"  asked {asked!r}, was answered {said!r}")
    for kind in outcome.undocumented or ():
        lines.append(f"  {account.examples.get(kind, kind)}")
    for what in outcome.descriptors:
        lines.append(f"  descriptor {what}")
    for what in broken(outcome):
        lines.append(f"  BROKEN: {what}")
    return "\n".join(lines)


def repeat(outcome: Outcome, seconds: float, harsh: bool) -> str:
    """The command that runs this again."""
    return (
        f"python -m tests.failures {outcome.storm} --pool {outcome.pool} "
        f"--seed {outcome.seed} --seconds {seconds:g}" + " --harsh" * harsh
    )


#: How one cell is run.
Runner = Callable[..., Outcome]
