"""Filters what Lightning prints: adverts, lists of devices, deprecations within its own code, and warnings that do not
apply here are hidden. Everything else is printed."""

import logging
import warnings

LOGS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
# Starts of hidden log lines: adverts, and that all steps are done, which the run itself says.
NOT_SAID = ("\N{ELECTRIC LIGHT BULB} Tip: ", "`Trainer.fit` stopped: `max_steps=")
# Functions of Lightning whose log lines are hidden: a run says the same, or no experiment can change it.
CHATTER = {"_log_device_info", "_determine_batch_limits", "_check_cuda_matmul_precision"}
# Starts of hidden warnings, and why each does not apply.
SETTLED = (
    "You have overridden `on_before_batch_transfer` in `LightningModule`",  # on purpose
    "You're resuming from a checkpoint that ended before the epoch ended",  # a step determines its batch
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen parts stay in it
    "The '.*' does not have many workers",  # the experiment sets num_workers
    "Checkpoint directory .* exists and is not empty",  # it is the run's own
    "Total length of `dict` across ranks is zero",  # there is no validation set, as the experiment has it
    "Experiment logs directory .* exists and is not empty",  # a file that lies there is kept under another name
)


def quiet() -> None:
    """Hide all of this from now on, in this process."""
    for name in LOGS:
        log = logging.getLogger(name)
        if not any(isinstance(each, _Concerns) for each in log.filters):
            log.addFilter(_Concerns())
    for said in SETTLED:
        warnings.filterwarnings("ignore", said)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"lightning\.")


class _Concerns(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg)
        return record.levelno > logging.INFO or not (said.startswith(NOT_SAID) or record.funcName in CHATTER)
