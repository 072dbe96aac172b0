"""For tests of pools, ours and our users': scripted servers, a clock, interruptions.

Nothing here sleeps for a fixed time, and nothing is random: a race is a list of orders,
and each of them is run.
"""

from geventpool.testing.checks import (
    check,
    check_capacity,
    pool_greenlets,
    sweep,
    watch_now,
)
from geventpool.testing.interruption import (
    INTERRUPTIONS,
    Interrupted,
    interrupt_everywhere,
)
from geventpool.testing.scripted import Clock, ScriptedConnection, ScriptedConnector
from geventpool.testing.switching import both_orders, no_switch, switches, wait_until

__all__ = [
    "INTERRUPTIONS",
    "Clock",
    "Interrupted",
    "ScriptedConnection",
    "ScriptedConnector",
    "both_orders",
    "check",
    "check_capacity",
    "interrupt_everywhere",
    "no_switch",
    "pool_greenlets",
    "sweep",
    "switches",
    "wait_until",
    "watch_now",
]
