"""Loaders of training and evaluation batches. Their data sets return whole batches."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset

from lit_blip2.data.annotations.binding import Pairs
from lit_blip2.data.annotations.captions import Captions
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.batches.evaluation import Batch, BindingRows, CaptionRows, Features, NoRows, Pixels, QuestionRows
from lit_blip2.data.batches.order import StepBatchSampler
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.faults import Faults


class TrainLoader(DataLoader):
    """A DataLoader that needs no state to resume: its sampler asks the run for the current step. Lightning resumes in
    the middle of an epoch only if a loader has `state_dict` and `load_state_dict`. Replaced images are counted here, in
    the training process. "micro_batch" in a batch is its number in the step, and how many the step has.
    """

    faults: Faults

    def __iter__(self) -> Iterator[Batch]:
        of = self.batch_sampler.accumulate
        for number, batch in enumerate(super().__iter__()):
            self.faults.add(*batch.pop("faults"))
            yield batch | {"micro_batch": (number % of, of)}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def train_loader(
    dataset: TrainPairs,
    batch_size: int,
    start_step: int | Callable[[], int],
    num_steps: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    faults: Faults | None = None,
) -> TrainLoader:
    """This rank's micro-batches of the steps from start_step. `len()` counts the whole run (see StepBatchSampler).
    faults: where replaced images are counted."""
    sampler = StepBatchSampler(
        dataset.source.order, batch_size, dataset.seed, start_step, num_steps, rank, world_size, accumulate
    )
    loader = _loader(TrainLoader, dataset, num_workers, pin_memory, batch_sampler=sampler)
    loader.faults = faults or Faults(limit=0)
    return loader


def eval_loaders(
    tables: dict[str, Captions | Questions | Pairs],
    source: Pixels | Features,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> dict[str, DataLoader]:
    """task -> loader of rows rank, rank + world_size, ... of its table, in order and none twice. A rank without a row
    gets one batch without a task."""
    kinds = {"caption": CaptionRows, "vqa": QuestionRows, "binding": BindingRows}
    rows = {task: np.arange(rank, len(table), world_size) for task, table in tables.items()}
    datasets = {
        task: kinds[task](table, source, rows[task]) if len(rows[task]) else NoRows() for task, table in tables.items()
    }
    return {
        task: _loader(DataLoader, data, num_workers, pin_memory, batch_size=batch_size)
        for task, data in datasets.items()
    }


def _loader(kind: type[DataLoader], dataset: Dataset, num_workers: int, pin_memory: bool, **how) -> DataLoader:
    """Data sets return whole batches, so nothing is collated. A training loader keeps its workers."""
    return kind(
        dataset,
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=kind is TrainLoader and num_workers > 0,
        worker_init_fn=_let_signals_pass,
        **how,
    )


def _as_is(batch):  # a lambda could not be pickled for spawned workers
    return batch


def _let_signals_pass(worker: int) -> None:
    """Ignore signals that the whole process group gets: the training process handles them, and still needs batches for
    the current step. A SIGTERM that the training process itself sends ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in this thread and those that it starts
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
