"""Ranks that end when one of them has died, and say which."""

import lightning as L

from lit_blip2 import roll_call
from lit_blip2.distributed import world_size
from lit_blip2.lit.watch import Watch
from lit_blip2.refusals import refusal


class Companions(L.Callback):
    """Of several ranks, watches from the start of a command to its end that all are there (watch.py).

    Where one dies, the others end within half a minute with status 1 and one line that names it. Where one ends with
    an error of its own, they end too, and the line says which error. A signal ends the rank that gets it.
    """

    def __init__(self) -> None:
        self.watch: Watch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if world_size() > 1 and self.watch is None:
            environment = getattr(trainer.strategy, "cluster_environment", None)
            if environment is not None:
                self.watch = Watch(environment.main_address)
        roll_call.over()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.watch is None:
            return
        said = refusal(exception)
        if said is None and isinstance(exception, RuntimeError) and self.watch.heard(roll_call.NEWS_SECONDS):
            self.watch.tell()
            for logger in trainer.loggers:
                logger.finalize("failed")
            roll_call.stop()
        is_error = isinstance(exception, Exception)  # no signal
        lines = (said or f"{type(exception).__name__}: {exception}").splitlines()
        self._leave(lines[0] if is_error and lines else "")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._leave()

    def _leave(self, why: str = "") -> None:
        if self.watch is not None:
            self.watch.leave(why)
            self.watch = None
