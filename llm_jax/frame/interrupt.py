"""Signals as a flag that is read between steps."""

import signal


class Stopped(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved."""


class Interrupt:
    """Turns signals into a flag that the loop reads between steps; a second Ctrl-C ends at once."""

    def __init__(self, *signals: int):
        self.wanted, self._signals = False, signals or (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self._old = {s: signal.signal(s, self._note) for s in self._signals}
        return self

    def _note(self, number, frame):
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)
