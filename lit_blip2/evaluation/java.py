"""Runs pycocoevalcap's Java programs: the Penn Treebank tokenizer, METEOR and SPICE.

pycocoevalcap ships the programs; nothing is downloaded. SPICE runs through its wrapper. The other two run once for all
captions, without their wrappers. METEOR's returns scores, but a bootstrap of a corpus' METEOR needs the statistics
behind them. The tokenizer's gives an empty caption the words of the next one.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
NEWEST_FOR_SPICE = 15  # later ones close the internals that its cache needs


def check_java(spice: bool = False) -> None:
    """Raises FileNotFoundError if java, or for SPICE its models, are missing, and ValueError for a Java that SPICE does
    not run on. Both say what to do."""
    if shutil.which("java") is None:
        raise FileNotFoundError(
            "caption_tokenizer=ptb, meteor and spice are Java programs, and there is no java on PATH: install one "
            "(Debian: apt install default-jre-headless), or leave them out"
        )
    if not spice:
        return
    lib = _folder("spice") / "lib"
    if missing := [name for name in SPICE_MODELS if not (lib / name).exists()]:
        raise FileNotFoundError(
            f"spice needs {' and '.join(missing)} in {lib}: unpack both from "
            "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip, or set spice to false"
        )
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    if (found := re.search(r'version "(?:1\.)?(\d+)', told)) and int(found[1]) > NEWEST_FOR_SPICE:
        raise ValueError(
            f"spice runs on Java 8 or 11, the java on PATH is {found[1]}: put another first, or spice=false"
        )


def ptb_words(texts: Sequence[str]) -> list[str]:
    """Each text lower-cased and split into the words of the Penn Treebank, joined by spaces, without punctuation."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    command = ["-cp", STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
    lines = _run(
        "tokenizer", [*command, "-lowerCase", "-encoding", "UTF-8"], [" ".join(text.split()) for text in texts]
    )
    return [" ".join(word for word in line.split(" ") if word not in PUNCTUATIONS) for line in lines]


def meteor_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The statistics of each prediction that `formulas.meteor` needs, float [N, 23]. An empty prediction matches
    nothing. A prediction equal to its reference has a single chunk, which METEOR does not count: it becomes 0."""
    rows = [[*wanted, given] for given, wanted in zip(predictions, references, strict=True)]
    cleaned = [[" ".join(text.replace("|||", " ").split()) or "-" for text in row] for row in rows]
    lines = [" ||| ".join(["SCORE", *row]) for row in cleaned]
    command = ["-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    statistics = np.array([line.split() for line in _run("meteor", command, lines)], dtype=float)
    whole = (statistics[:, 20] == 1) & (statistics[:, 21:23] == statistics[:, 0:2]).all(1)
    statistics[whole, 20] = 0
    empty = [not given for given in predictions]
    statistics[empty, 0] = statistics[empty, 2] = 0  # the words of its placeholder "-"
    return statistics


def spice_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """SPICE's F of each prediction, float [N]; 0 for an empty one."""
    from pycocoevalcap.spice.spice import Spice

    check_java(spice=True)  # else it would download
    there = [row for row, text in enumerate(predictions) if text]
    scores = np.zeros(len(predictions))
    if there:
        given, wanted = {row: [predictions[row]] for row in there}, {row: list(references[row]) for row in there}
        scores[there] = [each["All"]["f"] for each in Spice().compute_score(wanted, given)[1]]
    return scores


def _run(part: str, command: list[str], lines: Sequence[str]) -> list[str]:
    """Run a part's Java program: one line of output for each of input. Raises RuntimeError if it fails."""
    done = subprocess.run(
        ["java", *command],
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
        cwd=_folder(part),
    )
    found = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(found) != len(lines):
        told = done.stderr.decode(errors="replace")[-500:]
        raise RuntimeError(
            f"{part}: {len(found)} lines of java for {len(lines)} captions, exit {done.returncode}: {told}"
        )
    return found


def _folder(part: str) -> Path:
    import pycocoevalcap.tokenizer.ptbtokenizer as anchor

    return Path(anchor.__file__).parents[1] / part
