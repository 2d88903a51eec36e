"""PairData, the LightningDataModule behind every data class: it reads, checks and batches training and test data."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from lit_blip2.config import MAX_UNKNOWN_WORDS
from lit_blip2.data.annotations.binding import Pairs, read_binding
from lit_blip2.data.annotations.captions import Captions, read_captions
from lit_blip2.data.annotations.entries import noting
from lit_blip2.data.annotations.questions import Questions, question_types, read_questions
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.batches.evaluation import Features, Pixels, is_flat, own_name
from lit_blip2.data.batches.examples import Examples
from lit_blip2.data.batches.loaders import TrainLoader, eval_loaders, train_loader
from lit_blip2.data.batches.pairs import FilePairs, PairSource, sources_in, with_features
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.faults import Faults
from lit_blip2.data.features.store import ABOUT, WAY_OUT, FeatureStore
from lit_blip2.data.missing import MissingFilesError, check_some_there
from lit_blip2.keyed import check_seed
from lit_blip2.sources import digest

# Which splits a command evaluates on.
SPLITS = {"fit": ["val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}
ROWS_TOLD = 1000


log = logging.getLogger(__name__)


class Encoder(Protocol):
    """What the data need of an image encoder.

    `size` is the image height and width in pixels that the encoder expects, `interpolation` the filter that resizes
    images to it ("bicubic" or "bilinear"). `load` reads the weights from disk.
    """

    size: int
    interpolation: str

    def fingerprint(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]: ...

    def signed(self) -> dict[str, Any] | None: ...

    def output_shape(self, image_size: int) -> tuple[int, int]: ...

    def load(self) -> None: ...

    def to(self, device: torch.device) -> "Encoder": ...

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor: ...


class VQAFiles(TypedDict):
    """The files of one split of questions.

    questions: file of questions. annotations: file of their answers in VQAv2 and OK-VQA; GQA and Visual Genome keep
    answers and questions in one file. images: a file that names the images, when nothing else does: COCO's captions,
    Karpathy's dataset_coco.json or Visual Genome's image_data.json.
    """

    questions: str
    annotations: NotRequired[str | None]
    images: NotRequired[str | None]


class PairData(L.LightningDataModule):
    """Base class of all data modules: training pairs, and captions, questions and binding pairs to evaluate on.

    A subclass says what it trains on, in `train_files` and `train_pairs`. Training is counted in optimiser steps. The
    global batch of a step depends on (seed, step) alone: it is the same for any number of ranks, workers and
    accumulated micro-batches, and for a resumed run. A training row is an image and one of its captions, which is
    drawn anew each time. An unreadable training image is replaced by another image of the same source, counted and
    reported. An unreadable evaluation image stops the run. Evaluation rows are split over the ranks without padding
    or repetition, so several devices need `trainer.use_distributed_sampler: false`.

    how_to_get: tells the user where the files come from, in the error about missing files; None: data/missing.py knows.

    Args:
        root: folder that every relative path below starts from.
        images: folder of images. "{split}" in it becomes train, val or test, as in "images/{split}" or "{split}2014".
            A file name in the annotations may start with the last parts of this folder (val2014/x.jpg with
            coco/val2014) or with the folder that COCO's name repeats (val2014/COCO_val2014_1.jpg); both are dropped.
            Other folders belong to the file name. If none of them exists, and no two file names are equal without
            them, all images are looked for without them.
        val: captions for validation: COCO's json, LAVIS' list or Karpathy's dataset_coco.json. Retrieval and caption
            metrics are computed on them; null: none.
        test: captions for testing, in the same formats; null: none. For images without captions (NoCaps' test list)
            `test` writes captions to submit to the evaluation server.
        vqa_val: questions and answers for validation, in the format of VQAv2, OK-VQA, GQA or Visual Genome; null:
            none. The image files of VQAv2 are named in the captions of the same split, else they have COCO's names.
        vqa_test: questions and answers for testing; null: none. For VQAv2 questions without answers `test` writes
            answers to submit to the evaluation server.
        binding_val: captions for validation with two images each, the true one and one with swapped attributes; null:
            none.
        binding_test: the same for testing; null: none.
        features: folder of cached features (made by `python -m lit_blip2 data features`), relative to root or to the
            working folder. Training and evaluation then open no image; null: images are read and encoded.
        image_size: height and width of the images in pixels; null: the size that the image encoder expects. The
            encoder also chooses the resizing filter and the normalisation.
        augment: whether training crops and flips images at random. Turn it off where that makes captions false: a flip
            swaps left and right, a crop loses objects that the caption counts. With cached features it needs features
            that were written with --views.
        batch_size: training examples of one optimiser step, over ALL ranks and accumulated micro-batches.
        eval_batch_size: examples of an evaluation batch on each rank.
        seed: seed of the training order, of the captions drawn and of the augmentation.
        num_workers: processes on each rank that load batches; 0: the training process loads them.
        max_caption_words: captions are cut after this many words.
        max_unreadable: largest share (0 to 1) of the training images that may be unreadable; above it the run stops.
        max_unknown_words: largest share (0 to 1) of unknown words that a tokenizer may find in the captions, in the
            questions or in the answers; above it the run stops before training.
    """

    how_to_get: str | None = None

    def __init__(
        self,
        root: str = "data/mini",
        images: str = "images/{split}",
        val: str | None = None,
        test: str | None = None,
        vqa_val: VQAFiles | None = None,
        vqa_test: VQAFiles | None = None,
        binding_val: str | None = None,
        binding_test: str | None = None,
        features: str | None = None,
        image_size: int | None = None,
        augment: bool = True,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        max_caption_words: int = 50,
        max_unreadable: float = 0.01,
        max_unknown_words: float = MAX_UNKNOWN_WORDS,
    ):
        super().__init__()
        sizes = dict(image_size=image_size, batch_size=batch_size, eval_batch_size=eval_batch_size)
        texts = dict(root=root, images=images, val=val, test=test, features=features)
        _check_arguments(
            sizes | dict(max_caption_words=max_caption_words),
            texts | dict(binding_val=binding_val, binding_test=binding_test),
            num_workers,
            max_unknown_words,
        )
        # Ranks may hold different numbers of evaluation rows, on tiny sets none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.root, self.images, self.features = Path(root), images, features
        self.captions = {"val": val, "test": test}
        self.vqa = {"val": vqa_val, "test": vqa_test}
        self.binding = {"val": binding_val, "test": binding_test}
        self.image_size, self.interpolation = image_size, "bicubic"
        self.augment, self.max_caption_words = augment, max_caption_words
        self.max_unknown_words, self.pairs = max_unknown_words, None
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.seed, self.faults = check_seed(seed, "data.seed"), Faults(max_unreadable)
        self.tables: dict[str, dict[str, Captions | Questions | Pairs]] = {}
        self.stores: dict[str, FeatureStore] = {}
        self.files: dict[str, list[Strings]] = {}  # split -> the image names in its annotation files
        self.flat: set[Path] = set()  # image folders for which the log already said that subfolders are ignored
        self.folder: str | None = None

    def train_files(self) -> list[Path]:
        """The files that training needs. Raises ValueError if no training file is set."""
        raise NotImplementedError

    def train_pairs(self) -> PairSource:
        """The training pairs. Called when all of `train_files` exist."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Check the files that `stage` (fit, validate, test, predict; None: all) needs, then read the annotations.

        Raises FileNotFoundError with every missing file and how to get it. Raises ValueError for annotations that
        cannot be read, and for images that have no cached features although `features` is set.
        """
        training, splits = stage in (None, "fit"), SPLITS.get(stage, ["val", "test"])
        net = getattr(self.trainer and self.trainer.lightning_module, "net", None)
        if hasattr(vision := getattr(net, "vision", None), "interpolation"):
            self.fit_to(vision)
        self.image_size = self.image_size or 224  # where there is no encoder to ask
        self.check_files(stage)
        self.tables = {split: self.read(split) for split in splits}
        if not training and not any(self.tables.values()):
            raise ValueError(
                f"no files for {' or '.join(splits)}: set data.{splits[-1]}, data.vqa_{splits[-1]} or both"
            )
        for split in splits:
            self._check_images(split)
        if training:
            self.pairs = self._checked(self.train_pairs())

    def fit_to(self, vision: Encoder) -> None:
        """Take image size and resizing filter from an image encoder. Raises ValueError if it rejects `image_size`."""
        self.interpolation = vision.interpolation
        if self.image_size is None:
            self.image_size = vision.size
        elif self.image_size != vision.size:
            vision.output_shape(self.image_size)

    def store(self, section: str) -> FeatureStore:
        """The cached features of a section (train, val or test), opened once. Raises ValueError if the sections were
        written by different encoders."""
        if section not in self.stores:
            self.stores[section] = FeatureStore(self.features_folder / section)
            self.stores[section].check(next(iter(self.stores.values())).made_by)
        return self.stores[section]

    def train_sections(self) -> list[str]:
        """Names of the folders with the cached features to train on."""
        return ["train"]

    def _checked(self, pairs: PairSource) -> PairSource:
        """The pairs, with their cached features if `features` is set. Raises ValueError if features are missing, and
        FileNotFoundError if no image of a source is found."""
        if self.features is None:
            for one in sources_in(pairs):
                if isinstance(one, FilePairs):
                    check_some_there(map(one.path, range(len(one))), one.images.folder, one.name)
            return pairs
        stores = [self.store(section) for section in self.train_sections()]
        for one, store in zip(sources_in(pairs), stores, strict=True):
            path = one.path if isinstance(one, FilePairs) else None  # a tar's keys hold its images' sizes
            self._check_covered(store, one.image_ids, one.keys(), path)
        if len({(store.layout.tokens, store.layout.width, store.layout.read_as) for store in stores}) > 1:
            raise ValueError(f"{self.features_folder} holds features of several dtypes or sizes: write them all in one")
        if any(store.views for store in stores) and not self.augment:
            raise ValueError(
                f"{stores[0].folder} holds {stores[0].views} augmented views of each image: set data.augment to true,"
                " or write features without --views"
            )
        if self.augment and not all(store.views for store in stores):
            warnings.warn(
                "augment has no effect on features that were written without views: set augment to false", stacklevel=3
            )
        return with_features(pairs, stores)

    def evaluation_images(self, split: str) -> dict[int, str]:
        """image id -> file name, for all images of a split (val, test). Raises ValueError if an id names two files."""
        return self.named_images(split, self.read(split))

    def named_images(self, split: str, tables: dict[str, Captions | Questions | Pairs]) -> dict[int, str]:
        """image id -> file name, for the images in `tables`. Raises ValueError if an id names two files."""
        files: dict[int, str] = {}
        folder = self._folder(split)
        for table in tables.values():
            named = list(zip(table.image_ids.tolist(), table.files))
            if isinstance(table, Pairs):
                named += zip(table.swapped_image_ids.tolist(), table.swapped_files)
            for image_id, file in named:
                if own_name(files.setdefault(image_id, file), folder) != own_name(file, folder):
                    raise ValueError(f"image id {image_id} stands for both {files[image_id]} and {file}")
        return files

    @property
    def features_folder(self) -> Path:
        """The folder of cached features: `features` under root if it exists, else in the working folder."""
        there = [path for path in (self.root / self.features, Path(self.features)) if path.exists()]
        return there[0] if there else self.root / self.features

    def check_files(self, stage: str | None = None) -> None:
        """Raises FileNotFoundError with every annotation or feature file that `stage` needs and that is missing."""
        splits = SPLITS.get(stage, ["val", "test"])
        files, sections = (self.train_files(), self.train_sections()) if stage in (None, "fit") else ([], [])
        sections = [*sections, *(split for split in splits if self.tasks(split))] if self.features else []
        kept = [self.features_folder / section / ABOUT for section in sections]
        self._require([*files, *self._annotation_files(splits), *kept])

    def check_folder(self, split: str) -> None:
        """Raises FileNotFoundError if a split has annotations, but neither its image folder nor its images exist."""
        if self.features is None and self.tasks(split) and not self._folder(split).is_dir():
            self.tables[split] = self.read(split)
            self._check_images(split)

    def rows(self) -> str:
        """A description of the training data for the checkpoint: the number of rows, and a digest of the ids and texts
        of 1,000 evenly spaced rows. Other data, and the same data in another order, have another digest."""
        found = hashlib.blake2b(digest_size=6)
        for sample in np.linspace(0, len(self.pairs) - 1, min(len(self.pairs), ROWS_TOLD)).astype(int).tolist():
            span = self.pairs.span(sample)
            found.update(repr((span.image_id(sample), span.draw(sample, np.random.default_rng(0)))).encode())
        return f"{len(self.pairs):,} rows ({found.hexdigest()})"

    def evaluated_files(self) -> dict[str, str]:
        """ "SPLIT: FILE NAME" -> digest of the file, for each annotation file that is evaluated."""
        files = {(split, file) for split in self.tables for file in self._annotation_files([split])}
        return {f"{split}: {file.name}": digest([("", file.read_bytes())]) for split, file in sorted(files)}

    def tasks(self, split: str) -> set[str]:
        """The tasks (caption, vqa, binding) that a split (val, test) has files for."""
        files = {"caption": self.captions, "vqa": self.vqa, "binding": self.binding}
        return {task for task, of_split in files.items() if of_split.get(split)}

    def question_types(self, split: str) -> frozenset[str]:
        """The question types of a split (val, test) that has questions."""
        return question_types(*self.files_of(self.vqa[split])[:2], split)

    def files_of(self, given: VQAFiles) -> list[Path | None]:
        """Paths of questions, annotations and images, None for those not given. Raises ValueError for an empty name."""
        names = [given.get(key) for key in ("questions", "annotations", "images")]
        if "" in names:
            raise ValueError(f"{dict(given)}: an empty text names no file; write null where there is none")
        return [None if name is None else self.root / name for name in names]

    def train_dataloader(self) -> TrainLoader:
        """The batches from the trainer's current step to its last; without a trainer, those of one epoch.

        `TrainPairs` lists the keys of a batch. Raises ValueError before `setup`, and for trainer settings that do not
        fit (no max_steps, overfit_batches, Lightning's distributed sampler).
        """
        if self.pairs is None:
            raise ValueError('nothing is read yet: call setup("fit") first, or give the data to a Trainer')
        if self.trainer is None:
            steps = max(1, len(self.pairs) // self.batch_size)
            pairs = TrainPairs(self.pairs, self.seed)
            return train_loader(pairs, self.batch_size, 0, steps, num_workers=self.num_workers, faults=self.faults)
        trainer = self._checked_trainer()
        if trainer.max_steps < 1:
            raise ValueError("training is counted in optimiser steps: set trainer.max_steps")
        self.folder = trainer.log_dir  # asks all ranks
        return train_loader(
            TrainPairs(self.pairs, self.seed),
            self.batch_size,
            start_step=lambda: trainer.global_step,
            num_steps=trainer.max_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
            num_workers=self.num_workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            faults=self.faults,
        )

    def teardown(self, stage: str) -> None:
        """Report the images that were replaced, and write them to unreadable.json in the run's folder."""
        if stage == "fit":
            self._tell()

    def on_exception(self, exception: BaseException) -> None:
        """The same report when a run stops with an error."""
        self._tell()

    def _tell(self) -> None:
        if self.faults.counts:
            rank = 0 if self.trainer is None else self.trainer.global_rank
            log.warning("replaced %d images:\n%s", self.faults.counts.total(), self.faults.table())
            if self.folder:
                self.faults.write(Path(self.folder) / (f"unreadable_{rank}.json" if rank else "unreadable.json"))

    def val_dataloader(self) -> dict[str, DataLoader]:
        """One loader per task that has files, run one after the other: caption, vqa, binding."""
        return self._eval_loaders("val")

    def test_dataloader(self) -> dict[str, DataLoader]:
        return self._eval_loaders("test")

    def predict_dataloader(self) -> dict[str, DataLoader]:
        return self._eval_loaders("test")

    def examples(self, count: int) -> Examples:
        """Solved questions to put in front of those of `test`: of the validation questions, so that no test answer is
        given away; where there are none, of the test questions about other images."""
        split = "val" if self.vqa["val"] else "test"
        if split not in self.tables:
            self._require(self._annotation_files([split]))
            self.tables[split] = self.read(split)
            self._check_images(split)
        if "vqa" not in self.tables[split]:
            raise ValueError(f"{count} examples in a prompt need solved questions: set data.vqa_val")
        return Examples(self.tables[split]["vqa"], self.source(split), count, self.seed)

    def _eval_loaders(self, split: str) -> dict[str, DataLoader]:
        if split not in self.tables:
            stage = "test" if split == "test" else "validate"
            raise ValueError(
                f'nothing of {split} is read yet: call setup("{stage}") first, or give the data to a Trainer'
            )
        rows = self.tables[split], self.source(split), self.eval_batch_size
        if self.trainer is None:
            return eval_loaders(*rows, num_workers=self.num_workers)
        trainer = self._checked_trainer()
        return eval_loaders(
            *rows,
            trainer.global_rank,
            trainer.world_size,
            self.num_workers,
            trainer.strategy.root_device.type == "cuda",
        )

    def _annotation_files(self, splits: list[str]) -> list[Path]:
        named = [file for split in splits for file in (self.captions[split], self.binding[split]) if file]
        asked = [file for split in splits if self.vqa[split] for file in self.files_of(self.vqa[split]) if file]
        return [*(self.root / file for file in named), *asked]

    def _require(self, paths: list[Path]) -> None:
        if missing := [path for path in paths if not path.exists()]:
            raise MissingFilesError(missing, self.root, self.how_to_get)

    def read_captions(self, file: str, split: str) -> Captions:
        """The captions of a split (train, val, test) in a file under root."""
        return read_captions(self.root / file, split, self.max_caption_words)

    def read(self, split: str, faults: list[str] | None = None) -> dict[str, Captions | Questions | Pairs]:
        """task -> table of annotations, for each task that a split has files for.

        With a list in `faults`, a file that cannot be read adds a line to the list and its table is left out. Without
        it, such a file raises an error.
        """
        tables: dict[str, Captions | Questions | Pairs] = {}
        files: dict[int, str] = {}
        if path := self.captions[split]:
            with noting(faults):
                captions = tables["caption"] = self.read_captions(path, split)
                files = dict(zip(captions.image_ids.tolist(), captions.files))
        if self.vqa[split]:
            named = self.files_of(self.vqa[split])
            with noting(faults, named):
                tables["vqa"] = read_questions(*named, files, split)
        if path := self.binding[split]:
            with noting(faults):
                tables["binding"] = read_binding(self.root / path, self.max_caption_words)
        swapped = [tables["binding"].swapped_files] if "binding" in tables else []
        self.files[split] = [*(table.files for table in tables.values()), *swapped]
        return tables

    def _check_images(self, split: str) -> None:
        files = self.named_images(split, self.tables[split])
        if self.features and files:
            pixels, names = self.pixels(split), list(files.values())
            image_ids = np.array(list(files), dtype=np.int64)
            self._check_covered(self.store(split), image_ids, pixels.keys(names), lambda row: pixels.path(names[row]))
        elif files:
            pixels = self.pixels(split)
            check_some_there(map(pixels.path, files.values()), pixels.folder, split)

    def _check_covered(
        self,
        store: FeatureStore,
        image_ids: np.ndarray,
        keys: np.ndarray,
        path: Callable[[int], Path] | None,
    ) -> None:
        """Raises ValueError if a store lacks images or was made from other files. path: row -> its image file."""
        missing, others = store.missing(image_ids, keys)
        if len(missing):
            raise ValueError(
                f"{store.folder} lacks the features of {len(missing)} images, among them "
                f"{missing[:5].tolist()}. {WAY_OUT}"
            )
        if len(others):
            raise ValueError(
                f"{store.folder} holds features of other files under the ids of {len(others)} images, among them "
                f"{others[:5].tolist()}: the data have changed since, or are others. {WAY_OUT}"
            )
        if path is not None:
            once, first = np.unique(image_ids, return_index=True)  # several questions have one image
            if not store.check_files(once, lambda place: path(int(first[place]))):
                rank_zero_info(
                    f"{store.folder} does not say how its images' files were: a picture replaced since is not noticed"
                )

    def pixels(self, split: str, files: Strings | None = None) -> Pixels:
        """Reads the images of a split. files: the file names of the training images, once they are known."""
        if files is not None:
            self.files[split] = [files]
        folder = self._folder(split)
        named = [each for other, own in self.files.items() if self._folder(other) == folder for each in own]
        if (flat := is_flat(folder, named)) and folder not in self.flat and folder.is_dir():
            self.flat.add(folder)
            first = next(name for each in named for file in each if "/" in (name := own_name(file, folder)))
            rank_zero_info(f"{folder}: {first} and all others are read without their folders, of which none is there")
        return Pixels(folder, self.image_size, self.interpolation, flat)

    def _folder(self, split: str) -> Path:
        return self.root / self.images.replace("{split}", split)

    def source(self, split: str) -> Pixels | Features:
        """The images of a split to evaluate on, or their cached features."""
        return Features(self.store(split)) if self.features else self.pixels(split)

    def _checked_trainer(self) -> L.Trainer:
        trainer = self.trainer
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError("rows are dealt to the ranks already: set trainer.use_distributed_sampler to false")
        if trainer.overfit_batches:
            raise ValueError(
                "batches are a function of the step: train on a small file instead of setting overfit_batches"
            )
        return trainer


def check_names(**texts: str | None) -> None:
    """Raises ValueError for empty file names."""
    if empty := [f"data.{name}" for name, value in texts.items() if value == ""]:
        raise ValueError(f"{', '.join(empty)}: an empty text names no file; write null where there is none")


def _check_arguments(
    sizes: Mapping[str, int | None], texts: Mapping[str, str | None], num_workers: int, unknown_words: float
) -> None:
    """Raises ValueError for sizes below 1, empty file names, negative workers and shares outside 0 to 1."""
    if small := [f"data.{name}={value}" for name, value in sizes.items() if value is not None and value < 1]:
        raise ValueError(f"{', '.join(small)}: each must be at least 1")
    check_names(**texts)
    if num_workers < 0:
        raise ValueError(f"data.num_workers={num_workers} must be at least 0, where the training process loads batches")
    if not 0 <= unknown_words <= 1:
        raise ValueError(f"data.max_unknown_words={unknown_words} must be a share, from 0 to 1")
