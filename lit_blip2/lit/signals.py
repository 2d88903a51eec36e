"""Signals that ask a training process to end: recorded when they arrive, obeyed at the end of a step."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import lightning as L
import torch
import torch.distributed as dist

from lit_blip2.stopping import ASKING, STATUS
from lit_blip2.terminal import say


class Stopped(SystemExit):
    """The run has ended because a signal asked for it; its exit status is 128 + the signal's number."""


def keep_lightnings_out(trainer: L.Trainer) -> None:
    """Stop Lightning from installing its own signal handlers. Its SIGTERM handler sends something to the other ranks in
    the middle of whatever is being sent, and all ranks may then wait for ever."""
    trainer._signal_connector.register_signal_handlers = lambda: None


class Signals:
    """Records the first signal of ASKING. The handler interrupts nothing, such as a save.

    A second Ctrl-C ends the process at once. Other signals after the first are ignored, because launchers repeat them.

    grace: seconds from the signal for the step to end; after them the process exits without saving. late: function that
    says, in one line, what is saved of the run in that case.
    """

    def __init__(self, grace: float, late: Callable[[], str]):
        self.grace, self.late = grace, late
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._clock: threading.Timer | None = None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self._group: dist.ProcessGroup | None = None

    def listen(self) -> None:
        """Install the handlers, if this is the main thread: no other can. Under nohup SIGHUP stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in ASKING:
            if number == signal.SIGHUP and ignored:
                continue
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def forget(self) -> None:
        """Put back the handlers that were there before, stop the clock, and be ready for another training."""
        if self._clock is not None:
            self._clock.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._asked, self._group, self.received = {}, None, None, None

    def asked(self) -> signal.Signals | None:
        """The signal that this process has received, or None. With several processes: the signal that any of them had
        received by the previous call, so that all get the same answer. All must call this at the same places."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.received
        if self._group is None:
            self._group = dist.new_group(backend="gloo")  # on the CPU, so that nothing waits for a device
        answer = self._answer()
        number = torch.tensor([self.received or 0])
        self._asked = dist.all_reduce(number, dist.ReduceOp.MAX, self._group, async_op=True), number
        return answer

    def _answer(self) -> signal.Signals | None:
        if self._asked is None:
            return None
        work, number = self._asked
        work.wait()
        return signal.Signals(number.item()) if number.item() else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT == self.received:
                os._exit(STATUS + number)
            return
        self.received = signal.Signals(number)
        self._clock = threading.Timer(self.grace, self._give_up)
        self._clock.daemon = True
        self._clock.start()

    def _give_up(self) -> None:
        late = f"{self.received.name}: no step ended within the grace time of {self.grace:g} seconds. {self.late()}"
        say(late, error=True)
        os._exit(STATUS + self.received)
