"""`data` on the command line: what it says, and its exit status."""

import pytest

from lit_blip2.commands.data import main
from tests.data.shards.test_shards import sample, write_tar


def test_a_folder_is_indexed(tmp_path, capsys):
    write_tar(tmp_path / "0.tar", {"a": sample(1, "words")})
    assert main(["index", str(tmp_path), "--workers", "1"]) == 0
    assert "1 samples in 1 shards" in capsys.readouterr().out and (tmp_path / "index" / "shards.jsonl").exists()


def test_what_cannot_be_done_is_said_without_a_traceback(tmp_path, capsys):
    assert main(["index", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"error: no *.tar in {tmp_path / 'nothing'}\n"


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["index", "--help"])
    said = capsys.readouterr().out
    assert "Index the tar shards of a folder" in said and "processes that read" in said
