"""What ends a run from outside."""

import signal
import threading

import jax


class Stop:
    """Ctrl-C and SIGTERM as a wish, to be granted between two steps: a step that is under way owns its state."""

    def __init__(self):
        self.asked, self._before = False, {}

    def __enter__(self):
        # Signals are the main thread's, and a handler of the caller's own stays. Several processes would stop at steps
        # of their own, and wait for one another.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) is usual:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number, _):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
