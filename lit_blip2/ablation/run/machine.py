"""What a worker needs from its machine: a share of the cores, a GPU of its own, and the commands of `prepare`."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_blip2.ablation.run.locks import try_lock
from lit_blip2.ablation.schema import Plan


def thread_share(workers: int) -> dict[str, str]:
    """OMP_NUM_THREADS for one of `workers` on this machine, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}


def wants_gpus(plan: Plan) -> bool:
    """Whether any of the plan's runs would use a GPU."""
    return any(run.config.get("trainer", {}).get("accelerator") != "cpu" for run in plan.steps.values())


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines()
    return [str(number) for number, _ in enumerate(line for line in listed if line.startswith("GPU "))]


def _lock_name(gpu: str) -> str:
    """A GPU's name that is unique on this machine: numbers begin at 0 again in a job that sees only some GPUs."""
    if shutil.which("nvidia-smi") is None:
        return gpu
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return dict(re.findall(r"^GPU (\d+): .*\(UUID: (\S+)\)", listed, re.MULTILINE)).get(gpu, gpu)


@contextmanager
def own_gpu() -> Iterator[dict[str, str]]:
    """CUDA_VISIBLE_DEVICES with a GPU that no other worker of this user on this machine has; empty without GPUs.

    Raises ValueError if every GPU is taken: two runs on one would be slower than one after the other.
    """
    found = gpus()
    for gpu in found:
        with try_lock(Path(tempfile.gettempdir()) / f"lit_blip2_{os.getuid()}" / f"gpu-{_lock_name(gpu)}.lock") as lock:
            if lock is not None:
                yield {"CUDA_VISIBLE_DEVICES": gpu}
                return
    if found:
        raise ValueError(
            f"all {len(found)} GPUs of {platform.node()} have a worker of a sweep: use fewer --workers "
            "(or CUDA_VISIBLE_DEVICES= for runs on the CPU)"
        )
    yield {}


def run_prepare(line: str) -> None:
    """Run an ordinary command, such as `data make-mini --out data/mini`. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "lit_blip2", *shlex.split(line)]
    if code := subprocess.run(command).returncode:
        raise RuntimeError(f"prepare: `python -m lit_blip2 {line}` ended with exit code {code}")
