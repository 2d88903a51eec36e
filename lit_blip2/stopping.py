"""Which signals ask a run to end once its step is done and saved, and the exit status that tells so."""

import signal

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: what SLURM sends some time before its limit
STATUS = 128  # such a run ends with 128 + the signal's number, as a shell would say
