"""Connections that failed a check or a reset: how many did, and why the last one."""

from __future__ import annotations

from collections import deque

from geventpool._core.dial_errors import clear_frames, copy_error

__all__ = ["Rejections"]

#: So many are counted.
MOST = 1000


class Rejections:
    """The connections of one pool that were closed because of a failed check or reset.

    A caller that was refused is told of those since it came.
    """

    def __init__(self) -> None:
        #: when each was, the last one at the end
        self._times: deque[float] = deque(maxlen=MOST)
        #: what the last check or reset raised; None: there was none
        self.error: BaseException | None = None

    def note(self, now: float, error: BaseException) -> None:
        """Note that a check or reset has raised *error*. Never switches."""
        # The first frame is the pool's, and has not ended. The others would keep the
        # connection.
        trace = getattr(error.__traceback__, "tb_next", None)
        clear_frames(trace)
        self.error = copy_error(error).with_traceback(trace)
        self._times.append(now)

    def since(self, time: float) -> int:
        """Return how many there were, MOST at most. Never switches."""
        count = 0
        for each in reversed(self._times):
            if each < time:
                break
            count += 1
        return count
