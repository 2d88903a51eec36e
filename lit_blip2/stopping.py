"""Which signals ask a run to end once its step is done and saved, the exit status that tells so, and how a job knows
that it has been started once more, and its own run."""

import os
import signal
import socket
from pathlib import Path

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


def restarted() -> bool:
    """Whether a cluster, or torchrun, has started this process's job once more."""
    return any(int(os.environ.get(name) or 0) for name in RESTARTS)


def job_name() -> str | None:
    """What a job is called each time that it is started, and no other one: SLURM's number; of torchrun its run's name,
    the machine, and the process that starts ours and starts them again. None outside of jobs."""
    if number := slurm_job():
        return f"slurm {number}"
    if not (run := os.environ.get("TORCHELASTIC_RUN_ID")):  # `none`, unless torchrun is given one
        return None
    return f"torchrun {run} {socket.gethostname()} {(agent := os.getppid())} {_began(agent)}"


def _began(process: int) -> str:
    """When a process began, in the kernel's ticks: numbers of processes come again. Empty where there is no /proc."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""
