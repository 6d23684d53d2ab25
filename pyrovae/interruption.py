"""Interruption: Ctrl-C and SIGTERM end a training between two steps, not within one."""

import signal
import threading
from types import FrameType

__all__ = ["Interrupted", "Interruption"]


class Interrupted(KeyboardInterrupt):
    """A training was ended by a signal, between two steps.

    Args:
        message: where it stopped, and what is kept of it.
        signal: its number, to which a process that ends so adds 128 for its exit code.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class Interruption:
    """Within, the first SIGINT or SIGTERM is kept in `signal`, to look at between steps; a second one ends at once.

    Signals that somebody else handles are left to them, and so are all in threads other than the main one.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.signal == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            self._before = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
            for number in self._before:
                signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted("ended within a step, as it was told twice", number)
        self.signal = number
