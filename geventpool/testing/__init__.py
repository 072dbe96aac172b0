"""Tools for tests of pools: a scripted connector, a clock, interruptions.

Nothing here sleeps for a fixed time, and nothing is random: a race is tested by running
each order of its events.
"""

from geventpool.testing.checks import (
    check,
    check_capacity,
    pool_greenlets,
    sweep,
    watch_now,
)
from geventpool.testing.disturbance import (
    PLACES,
    disturb_everywhere,
    exhaust_stack_everywhere,
    fork_everywhere,
    in_finaliser,
    in_greenlet,
    in_hub,
    in_thread,
    tell_everywhere,
)
from geventpool.testing.failing_calls import fail_calls_everywhere
from geventpool.testing.interruption import (
    INTERRUPTIONS,
    Interrupted,
    Interruption,
    interrupt_everywhere,
)
from geventpool.testing.leftovers import Leftovers
from geventpool.testing.scripted import Clock, ScriptedConnection, ScriptedConnector
from geventpool.testing.switching import both_orders, no_switch, switches, wait_until

__all__ = [
    "INTERRUPTIONS",
    "PLACES",
    "Clock",
    "Interrupted",
    "Leftovers",
    "Interruption",
    "ScriptedConnection",
    "ScriptedConnector",
    "both_orders",
    "check",
    "check_capacity",
    "disturb_everywhere",
    "exhaust_stack_everywhere",
    "fail_calls_everywhere",
    "fork_everywhere",
    "in_finaliser",
    "in_greenlet",
    "in_hub",
    "in_thread",
    "interrupt_everywhere",
    "no_switch",
    "pool_greenlets",
    "sweep",
    "tell_everywhere",
    "switches",
    "wait_until",
    "watch_now",
]
