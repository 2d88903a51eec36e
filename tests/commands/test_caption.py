"""`caption` of many pictures on a tiny random stage-2 checkpoint: the same words as one by one, in one file."""

import json
import re
import shutil

import pytest
from PIL import Image

from lit_blip2.commands import ask
from tests.commands.test_ask import folder, image, run_folder  # noqa: F401 - fixtures


@pytest.fixture
def photos(folder, tmp_path):  # noqa: F811
    """Three pictures that differ, a copy of one of them in another place, and a text that is called one."""
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for name, place in (("a b.png", 0), ("C.PNG", 90), ("more/d.png", 180)):
        with Image.open(folder / "image.png") as picture:
            picture.rotate(place).save(photos / name)
    (photos / "notes.jpg").write_text("my notes")
    return photos


def test_many_pictures_get_the_captions_of_each(run_folder, photos, tmp_path, capsys):  # noqa: F811
    out, given = tmp_path / "c.jsonl", ["--checkpoint", run_folder]
    assert ask.main("caption", [*given, str(photos), "--out", str(out), "--batch_size", "2"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"cannot read image {photos / 'notes.jpg'}: not an image" in said.err
    assert f"3 captions written, {out} holds 3; 1 pictures cannot be read" in said.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == ["C.PNG", "a b.png", "more/d.png"]
    for row in rows:
        ask.main("caption", [*given, str(photos / row["image"])])
        assert capsys.readouterr().out.strip() == row["caption"].strip()
        assert row["made_by"].startswith("mini/version_0 (") and "num_beams 1" in row["made_by"]
    (photos / "notes.jpg").unlink()
    shutil.copy(photos / "C.PNG", photos / "e.png")
    assert ask.main("caption", [*given, str(photos), "--out", str(out)]) == 0
    assert "holds 3 captions: going on" in (said := capsys.readouterr().err) and "1 captions written" in said
    assert json.loads(out.read_text().splitlines()[3])["caption"] == rows[0]["caption"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], r"photos stands for 4 pictures: add --out captions\.jsonl"),
        (["photos/C.PNG", "--out", "c.jsonl"], r"--out, --images and --column are for a folder or a table"),
        (["photos/C.PNG", "--column", "file"], r"--out, --images and --column are for a folder or a table"),
        (["photos", "--out", "c.jsonl", "--precision", "8"], r"there is no precision '8': give precision='32-true'"),
        (["nowhere", "--out", "c.jsonl"], r"no folder or table 'nowhere'"),
        (["photos", "--out", "c.jsonl", "--batch_size", "0"], r"--batch_size 0 must be at least 1"),
        (["photos/empty", "--out", "c.jsonl"], r"photos/empty holds no pictures"),
    ],
)
def test_what_does_not_go_together_is_one_line(run_folder, photos, monkeypatch, arguments, words, capsys):  # noqa: F811
    monkeypatch.chdir(photos.parent)
    (photos / "empty").mkdir()
    assert ask.main("caption", ["--checkpoint", run_folder, *arguments]) == 2
    assert re.search(words, capsys.readouterr().err)
