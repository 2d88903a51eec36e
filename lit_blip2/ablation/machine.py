"""What a worker needs from its machine: a share of the cores, a GPU of its own, and the commands of `prepare`."""

import os
import shlex
import shutil
import subprocess
import sys


def thread_share(workers: int) -> dict[str, str]:
    """OMP_NUM_THREADS for one of `workers` on this machine, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines()
    return [str(number) for number, _ in enumerate(line for line in listed if line.startswith("GPU "))]


def device_of(worker: int) -> dict[str, str]:
    """One GPU per worker where there are GPUs; more workers than GPUs go round."""
    found = gpus()
    return {"CUDA_VISIBLE_DEVICES": found[worker % len(found)]} if found else {}


def run_prepare(line: str) -> None:
    """Run an ordinary command, such as `data make-mini --out data/mini`. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "lit_blip2", *shlex.split(line)]
    if code := subprocess.run(command).returncode:
        raise RuntimeError(f"prepare: `python -m lit_blip2 {line}` ended with exit code {code}")
