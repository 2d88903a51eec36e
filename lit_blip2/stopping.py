"""Signals that ask a run to end, its exit status then, and how a restarted job recognises its own run."""

import os
import signal
import socket
from pathlib import Path

# SIGUSR1: what SLURM sends some time before its limit. SIGHUP: a terminal, such as ssh's, is closed.
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Environment variables, set when SLURM restarts a job, or torchrun its processes.
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
GRACE = 30.0  # default of --grace: seconds from a signal to the end of the step
STATUS = 128  # such a run ends with 128 + the signal's number, as a shell would say


def slurm_job() -> str | None:
    """SLURM's number of the job that this process belongs to, with the place in a job array; None outside of SLURM."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID")


def restarted() -> bool:
    """Whether SLURM, or torchrun, has restarted this process's job."""
    return any(int(os.environ.get(name) or 0) for name in RESTARTS)


def job_name() -> str | None:
    """A name that a job keeps when it is restarted, and that no other job has: SLURM's number; for torchrun its run's
    name, the machine, and the process that starts and restarts ours. None outside of jobs."""
    if number := slurm_job():
        return f"slurm {number}"
    if not (run := os.environ.get("TORCHELASTIC_RUN_ID")):  # `none`, unless torchrun is given one
        return None
    return f"torchrun {run} {socket.gethostname()} {(agent := os.getppid())} {_began(agent)}"


def _began(process: int) -> str:
    """When a process began, in the kernel's ticks, because process numbers are reused. Empty without /proc."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""
