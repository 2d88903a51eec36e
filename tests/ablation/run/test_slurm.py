"""Workers handed to submitit run the sweep's own command; its local executor stands in for SLURM."""

import json
from argparse import Namespace

import pytest
import submitit
from rich.console import Console

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run import slurm
from lit_blip2.ablation.spec.grid import Grid


def test_each_job_is_one_worker_of_the_same_sweep(tmp_path):
    options = Namespace(config="a.yaml", scale="small", set=["a.b=1", "a.c=2"], storage=None)
    command = slurm.worker_command(options, Folder(tmp_path))
    assert command[1:4] == ["-m", "lit_blip2", "sweep"]
    asked = ["--config", "a.yaml", "--scale", "small", "--set", "a.b=1", "--set", "a.c=2"]
    assert command[4:] == [*asked, "--out", str(tmp_path), "--storage", f"journal:{tmp_path}/study.log"]


@pytest.mark.run
def test_jobs_run_the_command(tmp_path, monkeypatch):
    script = "import json, sys; json.dump(sys.argv[1:], open(sys.argv[1] + '/ran.json', 'w'))"
    monkeypatch.setattr(slurm, "worker_command", lambda *_: [slurm.sys.executable, "-c", script, str(tmp_path)])
    jobs = []
    submitted = submitit.AutoExecutor.submit
    monkeypatch.setattr(submitit.AutoExecutor, "submit", lambda *a: jobs.append(submitted(*a)) or jobs[-1])
    grid = Grid(name="x", steps={}, axes={}, metrics=[], seeds=[0], slurm={"timeout_min": 5})
    slurm.submit(grid, Folder(tmp_path), Namespace(workers=2), Console(), cluster="local")
    for job in jobs:
        job.result()
    assert len(jobs) == 2 and json.loads((tmp_path / "ran.json").read_text()) == [str(tmp_path)]
