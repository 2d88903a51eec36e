"""What Lightning says that concerns nobody here, and is not printed: adverts, lists of devices, deprecations within its
own code, and doubts that this suite has settled. All else it says is printed, each of its other warnings too."""

import logging
import warnings

LOGS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
# How lines begin that a run tells in its own: adverts, and that all steps are made.
NOT_SAID = ("\N{ELECTRIC LIGHT BULB} Tip: ", "`Trainer.fit` stopped: `max_steps=")
# Functions of Lightning that log what a run's own lines tell, or what no experiment can change.
CHATTER = {"_log_device_info", "_determine_batch_limits", "_check_cuda_matmul_precision"}
# Doubts, by how a warning begins, and what settles each.
SETTLED = (
    "You have overridden `on_before_batch_transfer` in `LightningModule`",  # the module's is meant
    "You're resuming from a checkpoint that ended before the epoch ended",  # a batch follows from its step alone
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen parts stay in it
    "The '.*' does not have many workers",  # an experiment's num_workers says how many
    "Checkpoint directory .* exists and is not empty",  # it is the run's own
    "Total length of `dict` across ranks is zero",  # there is no validation set, as the experiment has it
    "Experiment logs directory .* exists and is not empty",  # a file that lies there is kept under another name
)


def quiet() -> None:
    """From here on, in this process."""
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
