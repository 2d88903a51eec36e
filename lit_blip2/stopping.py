"""Which signals ask a run to end once its step is done and saved, the exit status that tells so, and how a job knows
that it has been started once more."""

import os
import signal

# SIGUSR1: what SLURM sends some time before its limit. SIGHUP: a terminal, such as ssh's, is closed.
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Environment variables, set where a cluster starts a job, or torchrun its processes, once more.
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
GRACE = 30.0  # default of --grace: seconds from a signal to the end of the step
STATUS = 128  # such a run ends with 128 + the signal's number, as a shell would say


def slurm_job() -> str | None:
    """The number of the job that this process is a part of, of an array with its place in it."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID")
