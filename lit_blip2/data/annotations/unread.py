"""Recognizes files that cannot be read as captions or questions, and says what to do instead."""

from pathlib import Path
from typing import Any

from lit_blip2.contents import DataError, check_file

_BY_NAME = {
    (".p", ".pkl", ".pickle"): "a pickle (RefCOCO's refs?), which could run anything and is not opened; RefCOCO's "
    "expressions are of regions, not of images",
    (
        ".parquet",
        ".arrow",
    ): "a table of Hugging Face's datasets: write its images into a folder and their captions into "
    "a metadata.jsonl beside them",
    (".zip", ".gz", ".tgz", ".tar"): "packed: unpack it, or read tars of images through an index, by "
    "lit_blip2.data.tar_shards.TarShards",
}
_LINKS = (
    "a list of captions and URLs (CC3M, CC12M, SBU, LAION), without images: download them with img2dataset "
    "--output_format webdataset, index the tars (`data index FOLDER`) and train on "
    "lit_blip2.data.conceptual.ConceptualCaptions"
)
_VG_IMAGES = "Visual Genome's list of images, which goes beside its questions, as images"
_CHOICE = (
    "multiple choice, whose answers are numbers of choices: let lmms-eval ask it of a run (docs/evaluation.md), or "
    "write rows of image, question and answer, a text"
)
_OPEN_ENDED = (
    "VQA v1's multiple choice, whose choices would be passed over: give OpenEnded_mscoco_*_questions.json, which asks "
    "the same questions under the same ids"
)
_VISUAL7W = (
    "Visual7W's multiple choice, of texts or of boxes: let others ask it of a run (docs/evaluation.md), or write rows "
    "of image, question and answer, a text"
)
# (keys of the file, keys of its entries, what the file is). The first that matches counts.
_BY_KEYS: list[tuple[set[str], set[str], str]] = [
    ({"image_urls"}, set(), _LINKS),
    (set(), {"url", "caption"}, _LINKS),
    (set(), {"choices", "lecture"}, f"ScienceQA's {_CHOICE}"),
    (set(), {"choices", "question", "answer"}, _CHOICE),
    ({"questions"}, {"multiple_choices"}, _OPEN_ENDED),
    ({"images"}, {"qa_pairs"}, _VISUAL7W),
    (set(), {"ref_id", "sentences"}, "RefCOCO's expressions, of regions and not of images"),
    (set(), {"conversations"}, "LLaVA's conversations: write rows of image, question and answer"),
    (set(), {"regions"}, "Visual Genome's regions: train on them by lit_blip2.data.visual_genome.VisualGenome"),
    (set(), {"qas"}, "Visual Genome's questions: give them as questions"),
    (set(), {"image_id", "url"}, _VG_IMAGES),
    (set(), {"id", "url", "coco_id"}, _VG_IMAGES),
    (set(), {"objects", "width"}, "scene graphs, without questions"),
    ({"annotations", "questions"}, set(), "questions and annotations in one: give them as two files"),
    ({"questions"}, set(), "VQAv2's questions: give them as questions, with their annotations"),
    ({"annotations", "images"}, set(), "COCO's captions or instances: give captions as captions"),
    ({"annotations"}, set(), "annotations without what they are about: VQAv2's go beside their questions"),
    ({"images"}, set(), "a list of images without captions, which can only be tested on, as captions"),
    (set(), {"imageId", "question"}, "GQA's questions: give them as questions"),
    (set(), {"image", "text", "label"}, "POPE's questions: give them as questions"),
    (set(), {"caption_str"}, "TextCaps, which holds captions: give it as captions"),
    (set(), {"question"}, "questions: give them as questions"),
    (set(), {"question_id", "answer"}, "answers for a server (a submission), without questions"),
    (
        set(),
        {"dataset_id", "image_id", "caption"},
        "Localized Narratives, which do not name files: write rows of image (its file) and caption",
    ),
    (set(), {"image_id", "caption"}, "captions for a server (a submission), without the names of images"),
    (set(), {"image", "caption"}, "captions: give it as captions"),
]  # fmt: skip

_LISTS = ("data", "questions", "images")


def refuse_by_name(path: Path) -> None:
    """Raises DataError if a file's name or first line shows that it is neither JSON nor a table of images."""
    for suffixes, what in _BY_NAME.items():
        if path.suffix in suffixes:
            raise DataError(f"{path} is not read: it is {what}")
    if path.suffix in (".tsv", ".csv") and "://" in _first_line(path):
        raise DataError(f"{path} is not read: it is {_LINKS}")


def what_it_is(content: Any) -> str:
    """What a JSON file holds, if its keys are known; else an empty string."""
    top = set(content) if isinstance(content, dict) else set()
    inner = _entry_keys(content)
    for outside, inside, what in _BY_KEYS:
        if outside <= top and inside <= inner:
            return what
    return ""


def _first_line(path: Path) -> str:
    check_file(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(10_000)


def _entry_keys(content: Any) -> set[str]:
    """The keys of the first entry: of a list, of one of an object's _LISTS, or of the objects in an object."""
    if isinstance(content, dict):
        lists = (content[name] for name in _LISTS if isinstance(content.get(name), list))
        content = next(lists, list(content.values()))
    return set(content[0]) if isinstance(content, list) and content and isinstance(content[0], dict) else set()
