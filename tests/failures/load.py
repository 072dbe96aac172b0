"""The load: greenlets that borrow, ask and give back, and some that interrupt them."""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event

from tests.failures.contestants import ANSWER, PATIENCE, Contestant, kind_of
from tests.pauses import sample

#: Seconds beyond its deadline that an acquire may take, and beyond it once more the
#: greatest delay of the event loop during the storm: the greenlets of one busy loop
#: wait for each other.
SLACK = 0.25

#: Seconds from a borrower's failure to its next try, from and to.
RETRY = (0.05, 0.15)

#: Seconds after which a borrower that has neither an answer nor an error is asleep: it
#: may have waited for a connection, and for the answers on it.
BEDTIME = PATIENCE + 3 * ANSWER + 2 * SLACK


class Interrupt(BaseException):
    """What a signal handler would raise anywhere, like KeyboardInterrupt."""


@dataclass
class Account:
    """What became of the load."""

    asked: int = 0
    served: int = 0
    #: the pool said it was exhausted
    refused: int = 0
    #: seconds after which it said so, at the least
    soonest_refusal: float = BEDTIME
    #: other errors, by kind
    errors: dict[str, int] = field(default_factory=dict)
    #: the traceback of the first of each kind
    examples: dict[str, str] = field(default_factory=dict)
    #: seconds from the end of the trouble to the last error of anybody
    recovery: float = 0.0
    #: tag and reply, where they differ
    wrong: list[tuple[str, str]] = field(default_factory=list)
    #: borrowers hit by a kill, a time-out or an Interrupt
    interrupted: int = 0
    #: seconds of the longest acquire
    longest_wait: float = 0.0
    #: seconds the event loop was late at most
    lag: float = 0.0
    #: borrowers with neither answer nor error when they should have had one
    asleep: int = 0

    @property
    def failed(self) -> int:
        """How many requests failed. Refusals are not failures."""
        return sum(self.errors.values())


class Load:
    """So many borrowers, who go on until they are told to stop.

    :param contestant: what they borrow from.
    :param chance: where everything random comes from.
    :param clients: how many.
    :param kills: how many borrowers are interrupted per second; 0: none is.
    """

    def __init__(
        self,
        contestant: Contestant,
        chance: random.Random,
        clients: int,
        kills: float = 0.0,
    ) -> None:
        self._contestant = contestant
        self._chance = chance
        self._kills = kills
        self.account = Account()
        self._over = False
        self._is_unobserved = False
        self._failed_at = 0.0
        self._served_at_failure = 0
        self._may_go = Event()
        self._may_go.set()
        self._tags = 0
        #: when the present request of each borrower began
        self._busy: dict[Any, float] = {}
        self._clients: set[gevent.Greenlet[..., Any]] = set()
        for _ in range(clients):
            self._spawn_client()
        self._others = [gevent.spawn(self._watch_loop)]
        if kills:
            self._others.append(gevent.spawn(self._interrupt))

    # What the weather may do

    def pause(self) -> None:
        """Let the present requests end, and none begin, until :meth:`go_on`."""
        self._may_go.clear()
        deadline = time.monotonic() + BEDTIME
        while self._busy and time.monotonic() < deadline:
            sample()

    def go_on(self) -> None:
        """Let requests begin again."""
        self._may_go.set()

    def recover(self, calm: float) -> None:
        """Go on with nothing in the way, and nobody interrupted, until all goes well.

        That is, without an error for *calm* seconds, in which as many requests were
        served as there are borrowers: on a busy machine a second may pass without any.
        Or for :data:`BEDTIME` in all.
        """
        self._is_unobserved = True
        begun = self._failed_at = time.monotonic()
        self._served_at_failure = self.account.served
        while time.monotonic() < begun + BEDTIME and not self._is_calm(calm):
            sample()
        self.account.recovery = self._failed_at - begun

    def _is_calm(self, seconds: float) -> bool:
        served = self.account.served - self._served_at_failure
        past = time.monotonic() - self._failed_at
        return past >= seconds and served >= len(self._clients)

    def stop(self) -> None:
        """Wait for the last borrower; who still sleeps then is counted, and killed."""
        self._over = True
        self.go_on()
        gevent.killall(self._others)
        left = list(self._clients)
        gevent.joinall(left, timeout=BEDTIME)
        sleepers = [client for client in left if not client.dead]
        self.account.asleep = len(sleepers)
        gevent.killall(sleepers, timeout=BEDTIME)

    # The borrowers

    def _spawn_client(self) -> None:
        client = gevent.Greenlet(self._client)
        self._clients.add(client)
        client.rawlink(self._ended)
        client.start()

    def _ended(self, client: Any) -> None:
        self._clients.discard(client)
        self._busy.pop(client, None)
        if not self._over:
            # It was killed: another one takes its place.
            self._spawn_client()

    def _client(self) -> None:
        me = gevent.getcurrent()
        while not self._over:
            try:
                self._may_go.wait()
                self._busy[me] = time.monotonic()
                self._request()
            except (gevent.GreenletExit, Interrupt, gevent.Timeout) as hit:
                self.account.interrupted += 1
                if isinstance(hit, gevent.GreenletExit):
                    return
            finally:
                self._busy.pop(me, None)

    def _request(self) -> None:
        self._tags += 1
        tag = f"tag-{self._tags:08d}"
        account, started = self.account, time.monotonic()
        account.asked += 1
        patience = None
        if self._kills and self._chance.random() < 0.1:
            patience = self._chance.random() * 0.02
        try:
            with gevent.Timeout(patience):
                if self._chance.random() < 0.6:
                    self._judge(tag, self._contestant.ask(tag))
                else:
                    self._hold(tag)
        except Exception as error:
            if self._contestant.is_refusal(error):
                account.refused += 1
                waited = time.monotonic() - started
                account.soonest_refusal = min(account.soonest_refusal, waited)
            else:
                kind = kind_of(error)
                if kind not in account.errors:
                    account.examples[kind] = traceback.format_exc()
                account.errors[kind] = account.errors.get(kind, 0) + 1
                self._failed_at = time.monotonic()
                self._served_at_failure = account.served
            del error
            gevent.sleep(self._chance.uniform(*RETRY))
        else:
            account.served += 1
            gevent.sleep(0.002 * self._chance.random())

    def _hold(self, tag: str) -> None:
        """Several questions on one connection, with pauses."""
        contestant = self._contestant
        started = time.monotonic()
        try:
            conn = contestant.take()
        finally:
            waited = time.monotonic() - started
            self.account.longest_wait = max(self.account.longest_wait, waited)
        try:
            for number in range(self._chance.randrange(1, 4)):
                part = f"{tag}-{number}"
                self._judge(part, contestant.talk(conn, part))
                gevent.sleep(0.001 * self._chance.random())
        except BaseException:
            contestant.break_off(conn)
            raise
        contestant.give_back(conn)

    def _judge(self, tag: str, reply: str) -> None:
        if reply != tag:
            self.account.wrong.append((tag, reply))

    # Beside them

    def _interrupt(self) -> None:
        """Hit somebody, again and again; waiting, in mid-reply, or giving back."""
        while not self._over:
            gevent.sleep(2 * self._chance.random() / self._kills)
            victims = [client for client in self._busy if not client.dead]
            if victims and not self._is_unobserved:
                kind = self._chance.choice([gevent.GreenletExit, Interrupt])
                for victim in self._chance.sample(victims, min(2, len(victims))):
                    victim.kill(kind, block=False)

    def _watch_loop(self) -> None:
        step = 0.01
        while not self._over:
            started = time.monotonic()
            gevent.sleep(step)
            late = time.monotonic() - started - step
            self.account.lag = max(self.account.lag, late)
