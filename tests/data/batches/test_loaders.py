"""Processes that load batches let signals pass that are not for them, and end with the training process."""

import os
import signal
import subprocess
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from lit_blip2.data.batches.loaders import _loader


class Numbers(Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> int:
        return number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_worker_ends_by_its_own_process_alone(number):
    batches = iter(_loader(DataLoader, Numbers(), 1, False, batch_size=None))
    assert next(batches) == 0
    (worker,) = batches._workers
    for _ in range(2):
        subprocess.run(["kill", f"-{number.name[3:]}", str(worker.pid)], check=True)  # from another process
        time.sleep(0.1)
    assert next(batches) == 1 and worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(5)
    assert worker.exitcode == 0
