"""The failure laboratory: pools between real servers and real trouble.

``python -m tests.failures`` puts our pools and their peers through the same storms and
prints a table of what became of them; ``python -m tests.failures.soak`` goes on with
ours for as long as it is told to. A storm (``storms.py``) is trouble beside a load
(``load.py``) on a contestant (``contestants.py``, ``peers.py``), between which and the
server of its site (``sites.py``) stands a proxy (``proxy.py``); what must hold during
and after it is in ``oracles.py``.
"""

# Before anything else imports socket; a second time it does nothing.
from gevent import monkey

monkey.patch_all()
