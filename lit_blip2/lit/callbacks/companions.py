"""Companions: ends all ranks of a run if one of them has died, and says which."""

import lightning as L

from lit_blip2 import roll_call
from lit_blip2.distributed import world_size
from lit_blip2.lit.watch import Watch
from lit_blip2.refusals import refusal


class Companions(L.Callback):
    """Checks during a command with several ranks that all of them are alive (watch.py).

    If a rank dies, the others exit within half a minute with status 1 and one line that names it. If a rank exits with
    an error, they exit too, and the line names the error. A signal ends the rank that receives it.
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
        is_error = isinstance(exception, Exception)  # a signal raises SystemExit
        lines = (said or f"{type(exception).__name__}: {exception}").splitlines()
        self._leave(lines[0] if is_error and lines else "")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._leave()

    def _leave(self, why: str = "") -> None:
        if self.watch is not None:
            self.watch.leave(why)
            self.watch = None
