"""A table that would have to be guessed at is refused by file and line."""

import json
import warnings

import pytest

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.annotations.questions import read_questions
from tests.data.annotations.test_captions import coco, table


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "x.csv",
            "image,caption\na.jpg,A dog\nb.jpg,two cats, one bed\n",
            "line 3 has 3 cells, and the first line names 2",
        ),
        ("x.csv", "image,caption,image_id\na.jpg,a dog, a cat,7\n", "line 2 has 4 cells"),
        ("x.csv", "image,caption,image_id\na.jpg,a dog\n", "line 2 has 2 cells"),
        ("x.csv", 'image,caption\na.jpg,"two\nlines"\nb.jpg\n', "line 4 has 1 cells"),
        ("x.csv", "caption,image,caption\na dog,a.jpg,a cat\n", "two columns are named 'caption'"),
        ("x.csv", 'image,caption\na.jpg,"a "big" dog"\n', "the row at line 2: ',' expected after '\"'"),
        ("x.csv", 'image,caption\na.jpg,a\nb.jpg,"a dog\nc.jpg,a cat\n', "the row at line 3: unexpected end of data"),
        (
            "x.tsv",
            'image\tcaption\n1.jpg\t"a dog\n2.jpg\ta cat"\n3.jpg\tx\n',
            "line 2 has a cell in quotes that goes on over '2.jpg\\ta cat', which looks like a row",
        ),
        (
            "x.csv",
            'caption,image\n"a dog,1.jpg\na cat,2.jpg\nits tail",3.jpg\n',
            "line 2 has a cell in quotes that goes on over 'a cat,2.jpg'",
        ),
        ("x.csv", "file_name,text,caption\n1.jpg,a,b\n", "line 2: text and caption both hold a caption"),
        (
            "x.jsonl",
            '{"file_name": "1.jpg", "text": "a", "caption": "b"}\n',
            "line 1: text and caption both hold a caption, and not the same one",
        ),
        (
            "x.jsonl",
            '{"image": "1.jpg", "file_name": "2.jpg", "caption": "b"}\n',
            "line 1: image is '1.jpg' and file_name '2.jpg': leave one of them out",
        ),
        (
            "x.jsonl",
            '{"dataset_id": "open_images", "image_id": "0a", "annotator_id": 7, "caption": "a"}\n',
            "is not read: it holds Localized Narratives, which do not name files: write rows of image",
        ),
        ("x.csv", "image;caption\na.jpg;a dog, a cat\n", "its first line, 'image;caption', is separated by ';'"),
        ("x.csv", "image\tcaption\na.jpg\ta dog\n", "is separated by '\\t': separate a .csv by ','"),
        ("x.tsv", "image,caption\na.jpg,a dog\n", "is separated by ',': separate a .tsv by '\\t'"),
        ("x.tsv", "image\tcaption\na.jpg\ta\tdog\n", "line 2 has 3 cells"),
        (
            "x.csv",
            "a.jpg,a dog\nb.jpg,a cat\n",
            "its first line names no columns but 'a.jpg': put a line in front that does",
        ),
        ("x.csv", "", "no images"),
        ("x.csv", '[\n {"image": "a.jpg", "caption": "a"}]', "names no columns but begins JSON: call the file .json"),
        ("x.tsv", '{"image": "a.jpg", "caption": "a"}\n', "names no columns but begins JSON: call the file .json"),
        (
            "x.json",
            '{"0": {"image": "a.jpg", "caption": "a"}, "1": {"image": "b.jpg", "caption": "b", "image_id": 3}}',
            "rows of pandas in an object: write a list of them, by to_json(orient='records')",
        ),
        ("x.json", '{"schema": {}, "data": [{"image_id": 1, "caption": "a"}]}', "by to_json(orient='records')"),
        (
            "x.json",
            '[{"image": "a.png", "caption": "a", "image_id": "siteA_7"},'
            ' {"image": "b.png", "caption": "b", "image_id": "siteB_7"}]',
            "image id 7 stands for both a.png and b.png: of a word the digits at its end count; write image_id",
        ),
        (
            "x.csv",
            "image,caption,image_id\na.jpg,a,1\na.jpg,b,2\n",
            "line 3: a.jpg has image id 2, and 1 in a row before",
        ),
        ("x.csv", "image,caption\n,a dog\n", "line 2: image is '', and must name a file"),
        ("x.jsonl", '{"image": "a.jpg", "caption": "a"}\n["b.jpg", "b"]\n', "line 2: must be an object with keys"),
        ("x.jsonl", '{"image": "a.jpg", "caption": "a"}\n{"image": "b.jpg", "cap', "line 2 is not JSON"),
    ],
)
def test_no_cell_is_guessed(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:
        read_captions(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}") and words in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", '\ufeff"image","caption"\r\n"a.jpg","a ""big"" dog, asleep"\r\n\r\nb.jpg,5" nails\r\n'),
        ("x.tsv", 'image\tcaption\na.jpg\ta "big" dog, asleep\nb.jpg\t5" nails\n'),
        ("x.csv", 'image,caption\na.jpg,"a big dog, asleep",\nb.jpg,5 nails,,\n'),
        ("x.csv", 'image,caption,url,url\na.jpg,"a big dog, asleep",x,y\nb.jpg,5 nails\n'),
        ("x.csv", ',caption,image\n0,"a big dog, asleep",a.jpg\n1,5 nails,b.jpg\n'),
    ],
)
def test_what_is_well_quoted_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    read = table(read_captions(tmp_path / name))
    assert read == {0: ("a.jpg", ["a big dog, asleep"]), 1: ("b.jpg", ["5 nails"])}


@pytest.mark.parametrize(
    ("name", "content", "file", "text"),
    [
        ("x.csv", 'image,caption\na.jpg,"a dog,\nlying, asleep"\n', "a.jpg", "a dog, lying, asleep"),
        ("x.tsv", 'image\tcaption\na.jpg\t"a dog\nasleep"\n', "a.jpg", "a dog asleep"),
        ("x.jsonl", '{"image": "a/1.jpg", "file_name": "1.jpg", "caption": "b"}\n', "a/1.jpg", "b"),
        ("x.jsonl", '{"image": "1.jpg", "caption": "b", "text": "words in it"}\n', "1.jpg", "b"),
        ("x.jsonl", '{"file_name": "1.jpg", "caption": "b", "text": "b"}\n', "1.jpg", "b"),
    ],
)
def test_what_says_one_thing_is_read(tmp_path, name, content, file, text):
    (tmp_path / name).write_text(content)
    assert table(read_captions(tmp_path / name)) == {0: (file, [text])}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "image,caption,caption_2,caption_3\na.jpg,one,two,three\nb.jpg,four,,\n"),
        ("x.csv", "image,caption1,caption2,caption3\na.jpg,one,two,three\nb.jpg,,four\n"),
        ("x.tsv", "image_id\timage\tcaption_0\tcaption_1\tcaption_2\n0\ta.jpg\tone\ttwo\tthree\n1\tb.jpg\tfour\n"),
        (
            "x.jsonl",
            '{"file_name": "a.jpg", "text": "one", "text_2": ["two", "three"]}\n{"file_name": "b.jpg", "text": "four"}',
        ),
    ],
)
def test_further_captions_of_an_image_stand_in_columns_of_their_own(tmp_path, recwarn, name, content):
    (tmp_path / name).write_text(content)
    for split in ("train", "test"):
        read = table(read_captions(tmp_path / name, split))
        assert read == {0: ("a.jpg", ["one", "two", "three"]), 1: ("b.jpg", ["four"])}
    assert not recwarn.list


LISTS = [  # as pandas writes a column of lists, JSON, and NumPy's arrays
    ["['a dog', \"the dog's \\\\ bed, [red]\", 'caf\\xe9']", ["a dog", "the dog's \\ bed, [red]", "caf\xe9"]],
    ['["a dog", "\\u00e9t\\u00e9 \\ud83d\\ude00", "x\\/y"]', ["a dog", "\xe9t\xe9 \U0001f600", "x/y"]],
    ["['a dog' 'one dog'\n 'x']", ["a dog", "one dog", "x"]],
    [" ['a dog', None, 'one dog',] ", ["a dog", "one dog"]],
    ["['a dog']", ["a dog"]],
    ["('a dog', \"one dog\")", ["a dog", "one dog"]],
    ["[np.str_('a dog'), np.str_('one dog')]", ["a dog", "one dog"]],
    ["{'a dog', 'one dog'}", ["a dog", "one dog"]],
]
NO_LISTS = [
    "('a dog')",
    "('a dog' 'one dog')",
    "[a dog, one dog]",
    "['a dog', 7]",
    "['a dog', [\"x\"]]",
    "[1, 2]",
    "['a dog' + 'x']",
    "['a', 'b'] x",
    "['\\x']",
    "[[",
]


@pytest.mark.parametrize(("cell", "texts"), [*LISTS, *([each, [each.strip()]] for each in NO_LISTS)])
def test_a_cell_that_is_a_printed_list_of_texts_holds_them_all(tmp_path, cell, texts):
    quoted = cell.replace('"', '""')
    (tmp_path / "x.csv").write_text(f'image,caption\na.jpg,"{quoted}"\n')
    (tmp_path / "x.tsv").write_text(f'image\tcaption_1\tcaption_2\na.jpg\t"{quoted}"\tlast\n')
    (tmp_path / "x.jsonl").write_text(json.dumps({"file_name": "a.jpg", "text": cell}) + "\n")
    (tmp_path / "x.json").write_text(json.dumps(coco((1, cell), ids=[1])))
    image = {"cocoid": 1, "filename": "a.jpg", "split": "test", "sentences": [{"raw": cell}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image]}))
    for name, more in {"x.csv": [], "x.tsv": ["last"], "x.jsonl": [], "x.json": [], "k.json": []}.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*empty captions left out")
            assert list(map(str.strip, read_captions(tmp_path / name, "test").written)) == texts + more


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "results.token"])
def test_a_pointer_of_git_lfs_is_named_whatever_the_file_is(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    for read in (read_captions, read_questions):
        if read is read_captions or name.endswith(("json", "jsonl")):
            with pytest.raises(DataError, match=f"{name} is a pointer of Git LFS and not .* git lfs pull$"):
                read(tmp_path / name)


def test_a_printed_nan_is_an_empty_cell(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption,caption_2,image_id\na.jpg,one,nan,None\nb.jpg,NaN,a nan,\n")
    assert table(read_captions(tmp_path / "x.csv")) == {0: ("a.jpg", ["one"]), 1: ("b.jpg", ["a nan"])}
    (tmp_path / "y.csv").write_text("image,caption\na.jpg,one\nb.jpg,nan\n")
    with pytest.raises(DataError, match=r"y\.csv: image 1 has no caption"):
        read_captions(tmp_path / "y.csv")


def test_a_column_that_begins_like_captions_is_none(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption,caption_length,captioner_2,caption_id\na.jpg,one,3,x,7\n")
    assert table(read_captions(tmp_path / "x.csv")) == {0: ("a.jpg", ["one"])}


def test_ids_from_0_on_are_kept_and_an_empty_cell_gives_none(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption,image_id\nb.jpg,b,1\na.jpg,a,0\nb.jpg,again,\n")
    assert table(read_captions(tmp_path / "x.csv")) == {1: ("b.jpg", ["b", "again"]), 0: ("a.jpg", ["a"])}
    (tmp_path / "y.csv").write_text("image,caption,image_id\na.jpg,a,1\nb.jpg,b,\n")
    with pytest.raises(ValueError, match=r"image id 1 stands for both a\.jpg and b\.jpg"):
        read_captions(tmp_path / "y.csv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "image,caption\na.jpg,a dog\nb.jpg,a re" + "\0" * 20, "line 3 holds a NUL"),
        ("x.tsv", "image\tcaption\na.jpg\ta dog\n" + "\0" * 20, "line 3 holds a NUL"),
        ("x.csv", "image,caption,source\na.jpg,a dog,\0\n", "line 2 holds a NUL"),
        ("x.csv", "image,cap\0", "line 1 holds a NUL"),
        ("x.token", "a.jpg#0\ta dog\nb.jpg#0\ta re" + "\0" * 20, "line 2 holds a NUL"),
        ("x.csv", "image,caption,source\na.jpg,a dog,web\nb.jpg,a re", "line 3 has 2 cells, the others 3, and no end"),
        ("x.tsv", "caption\timage\tsource\na\ta.jpg\tw\nb\tb.j", "line 3 has 2 cells, the others 3, and no end"),
        ("x.csv", 'image,caption\na.jpg,a dog\nb.jpg,"a re', "the row at line 3: unexpected end of data"),
        ("x.csv", "image,caption\na.jpg,a dog\nb.j", "line 3 has 1 cells"),
    ],
)
def test_what_was_cut_or_copied_in_part_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: {words}"):
        read_captions(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("image,caption\na.jpg,a dog\nb.jpg,a cat", 2),  # without a last line's end, as many editors leave it
        ("image,caption,source\na.jpg,a dog\nb.jpg,a cat", 2),  # a column that is left out everywhere
        ("image,caption,source\na.jpg,a dog,web\nb.jpg,a cat\n", 2),
        ("image,caption,source\na.jpg,a dog,web\nb.jpg,a cat,", 2),
        ("image,caption,source\nb.jpg,a cat", 1),
    ],
)
def test_a_table_without_a_last_lines_end_is_read(tmp_path, content, count):
    (tmp_path / "x.csv").write_text(content)
    assert len(read_captions(tmp_path / "x.csv").image_ids) == count
