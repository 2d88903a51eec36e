"""Workers as SLURM jobs, through submitit: each job runs the same command with one worker."""

import argparse
import sys
from pathlib import Path

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.provenance import asked
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.console import Console

try:
    import submitit
except ImportError as error:
    raise ImportError('--launcher slurm needs submitit: pip install -e ".[slurm]"') from error

DEFAULTS = {"timeout_min": 24 * 60, "cpus_per_task": 8}


def submit(grid: Grid, folder: Folder, options: argparse.Namespace, console: Console, cluster: str = "slurm") -> int:
    """One job per worker; returns at once. `slurm:` in the ablation's YAML holds submitit's parameters, such as
    {slurm_partition: gpu, gpus_per_node: 1, timeout_min: 600}; a job that runs out of time leaves its cell to others.

    Raises RuntimeError where SLURM is not there.
    """
    executor = submitit.AutoExecutor(folder=folder.root / "slurm", cluster=cluster)
    executor.update_parameters(**(DEFAULTS | {"name": f"sweep-{grid.name}"} | grid.slurm))
    work = submitit.helpers.CommandFunction(worker_command(options, folder), cwd=str(Path.cwd()))
    jobs = [executor.submit(work) for _ in range(options.workers)]
    console.print(f"{len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}", highlight=False)
    console.print(f"python -m lit_blip2 report {folder.root}   shows how far they are", highlight=False)
    return 0


def worker_command(options: argparse.Namespace, folder: Folder) -> list[str]:
    """The command of one job: this sweep, one local worker."""
    command = [sys.executable, "-m", "lit_blip2", "sweep", *asked(options), "--out", str(folder.root)]
    return [*command, "--storage", options.storage or f"journal:{folder.root / 'study.log'}"]
