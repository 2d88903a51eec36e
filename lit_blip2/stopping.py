"""Which signals ask a run to end once its step is done and saved, the exit status that tells so, and how a job knows
that it has been started once more."""

import signal

# SIGUSR1: what SLURM sends some time before its limit. SIGHUP: a terminal, such as ssh's, is closed.
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Environment variables, set where a cluster starts a job, or torchrun its processes, once more.
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
GRACE = 30.0  # default of --grace: seconds from a signal to the end of the step
STATUS = 128  # such a run ends with 128 + the signal's number, as a shell would say
