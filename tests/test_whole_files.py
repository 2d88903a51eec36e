"""Files that are there whole or not at all, also where the process that writes them dies."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lit_blip2.refusals import refusal
from lit_blip2.whole_files import write_json, write_text, written_whole

RANDOM = np.random.default_rng(0).integers(0, 256, 2**22, np.uint8)  # bytes, more than a small disk has
WRITER = """
import sys, time
from pathlib import Path
from lit_blip2.whole_files import written_whole
with written_whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.run
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_the_former_file_and_the_next_writer_no_part(tmp_path, number):
    file = tmp_path / "out.json"
    write_text(file, "whole")
    other = tmp_path / "TMPDIR"
    other.mkdir()
    environment = os.environ | {"TMPDIR": str(other)}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, env=environment)
    writer.stdout.readline()
    writer.send_signal(number)
    writer.wait(30)
    assert file.read_text() == "whole" and len(list(tmp_path.iterdir())) == 3 and not list(other.iterdir())
    write_text(file, "new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["TMPDIR", "out.json"] and file.read_text() == "new"


def test_an_error_leaves_the_former_file_and_no_part(tmp_path):
    file = tmp_path / "out.json"
    write_text(file, "whole")
    with pytest.raises(OSError, match="full"), written_whole(file) as part:
        part.write_text("half")
        raise OSError("the disk is full")
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"] and file.read_text() == "whole"


def test_a_part_that_another_process_is_writing_stays(tmp_path):
    file = tmp_path / "out.json"
    with written_whole(file) as part:
        part.write_text("half")
        part.rename(theirs := part.with_name(part.name.rpartition("-")[0] + f"-{os.getppid()}"))
        write_text(part, "own")
    assert theirs.read_text() == "half" and file.read_text() == "own"


def test_a_number_that_json_does_not_have_leaves_the_former_file(tmp_path):
    file = tmp_path / "file.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match=r"file\.json is not written: .*float"):
        write_json(file, {"a": float("nan")})
    assert file.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [file]


def folder_of(part: Path) -> None:
    part.mkdir()
    (part / "a.txt").write_text("a")
    (part / "b.bin").write_bytes(RANDOM.tobytes())


WRITERS = {
    "text": lambda part: part.write_text("a" * RANDOM.nbytes),
    "a folder": folder_of,
    "torch": lambda part: torch.save({"a": torch.zeros(7), "b": torch.from_numpy(RANDOM)}, part),
    "safetensors": lambda part: save_file({"a": torch.from_numpy(RANDOM)}, part),
    "npz": lambda part: np.savez_compressed(part.open("wb"), a=RANDOM),
    "npy": lambda part: np.save(part.open("wb"), RANDOM),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_by_the_file_and_leaves_the_former_one(small_disk, writer):
    disk = small_disk(2**21)
    file = disk / "out"
    write_text(file, "whole")
    with pytest.raises(OSError) as error, written_whole(file, RANDOM.nbytes) as part:
        WRITERS[writer](part)
    told = re.fullmatch(
        r"not enough disk space for (.*): it needs (\S+) MB or more, (\S+) MB are free\. .* Free some space .*",
        str(error.value),
    )
    assert told and told[1] == str(file) and float(told[2]) == 4.19 and 2 < float(told[3]) <= 2.1
    assert refusal(error.value) == str(error.value)
    assert [each.name for each in disk.iterdir()] == ["out"] and file.read_text() == "whole"


def test_a_full_disk_is_told_of_a_file_whose_size_is_not_known(small_disk):
    with pytest.raises(OSError, match=r"it needs 2\.\d+ MB or more, 2\.\d+ MB are free"):
        write_text(small_disk(2**21) / "out", "a" * RANDOM.nbytes)


def test_an_error_on_a_disk_with_room_is_not_told_as_a_full_one(small_disk):
    with pytest.raises(RuntimeError, match="of its own"), written_whole(small_disk(2**21) / "out"):
        raise RuntimeError("of its own")
