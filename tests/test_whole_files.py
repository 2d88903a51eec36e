"""Files that are there whole or not at all, also where the process that writes them dies."""

import os
import signal
import subprocess
import sys

import pytest

from lit_blip2.whole_files import write_json, write_text, written_whole

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
