"""Values of other types than a reader needs are refused by file, entry, key and value."""

import json

import pytest

from lit_blip2.data.annotations.binding import read_binding
from lit_blip2.data.annotations.captions import evaluated_ids, image_files, read_captions
from lit_blip2.data.annotations.entries import Entry, read_json
from lit_blip2.data.annotations.questions import question_types, read_questions
from lit_blip2.data.visual_genome import read_regions
from tests.data.annotations.test_captions import coco, write_json

IMAGE = {"id": 1, "file_name": "1.jpg"}
MARK = {"id": 1, "image_id": 1, "caption": "a dog"}
KARPATHY = {"cocoid": 1, "filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}
ASKED = {"question_id": 1, "image_id": 1, "question": "what?"}
SAID = {"question_id": 1, "image_id": 1, "question_type": "what", "answers": [{"answer": "dog"}]}
GQA = {"imageId": "1", "question": "what?", "answer": "dog", "types": {"structural": "query"}}
VG = {"qa_id": 1, "image_id": 1, "question": "what?", "answer": "dog"}
POPE = {"question_id": 1, "image": "x_1.jpg", "text": "is it?", "label": "yes"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"images": [IMAGE], "annotations": [MARK | {"caption": 7}]},
            "entry 1 of annotations: caption must be a text, and is a number, 7",
        ),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 1, "bbox": [1]}]},
            "caption is not there: its keys are bbox, image_id",
        ),
        (
            {"images": [IMAGE | {"id": ["one"]}], "annotations": []},
            'entry 1 of images: id must be a whole number of 64 bits, and is a list, ["one"]',
        ),
        (
            {"images": [IMAGE | {"id": 1.5}], "annotations": []},
            "id must be a whole number of 64 bits, and is a number, 1.5",
        ),
        (
            {"images": [IMAGE | {"id": True}], "annotations": []},
            "id must be a whole number of 64 bits, and is true or false, true",
        ),
        ({"images": [IMAGE | {"file_name": None}], "annotations": []}, "entry 1 of images: file_name is null"),
        ({"images": [IMAGE | {"file_name": ""}], "annotations": []}, "file_name is '', and must name a file"),
        ({"images": {"1": IMAGE}, "annotations": []}, "images must be a list, and is an object"),
        (
            {"images": [IMAGE], "annotations": ["a dog"]},
            "entry 1 of annotations: must be an object with keys, and is a text",
        ),
        ({"images": [KARPATHY | {"split": "dev"}]}, "entry 1 of images: split is 'dev', and must be one of"),
        (
            {"images": [KARPATHY | {"sentences": ["a dog"]}]},
            "entry 1 of sentences of entry 1 of images: must be an object",
        ),
        (
            {"images": [KARPATHY, {"cocoid": 2, "filename": "2.jpg", "split": "train"}]},
            "entry 2 of images: sentences is not there",
        ),
        ([{"image": ["1.jpg"], "caption": "a dog"}], "entry 1: image must be a text, and is a list"),
        ([{"image": "1.jpg", "caption": {"raw": "a dog"}}], "entry 1: caption must be a text, and is an object"),
        ([{"image": "1.jpg", "caption": ["a dog", 7]}], "entry 1: caption must be a text, and is a number, 7"),
        (
            [{"image": "1.jpg", "caption": "a", "image_id": 2}, {"image": "1.jpg", "caption": "b", "image_id": 3}],
            "entry 2: 1.jpg has image id 3, and 2 in a row before",
        ),
        (["1.jpg"], "entry 1: must be an object with keys, and is a text"),
        ("captions", "must be an object with keys, and is a text"),
        (None, "must be an object with keys, and is null"),
    ],
)
def test_captions_of_other_types_are_refused_by_name(tmp_path, content, words):
    file = write_json(tmp_path / "c.json", content)
    with pytest.raises(ValueError) as error:
        read_captions(file)
    assert str(error.value).startswith(f"{file}: ") and words in str(error.value)


@pytest.mark.parametrize(
    ("asked", "said", "words"),
    [
        ({"questions": [ASKED | {"question": None}]}, None, "q.json: entry 1 of questions: question is null"),
        (
            {"questions": [ASKED | {"question_id": [1]}]},
            None,
            "q.json: entry 1 of questions: question_id must be a whole",
        ),
        ({"questions": [ASKED | {"image_id": "1.5"}]}, None, "q.json: entry 1 of questions: image_id must be a whole"),
        ("x", None, "q.json: must be an object with keys, and is a text"),
        ({"annotations": [SAID]}, None, "q.json: questions is not there: its keys are annotations"),
        (
            None,
            {"annotations": [SAID | {"answers": ["dog"]}]},
            "a.json: entry 1 of answers of entry 1 of annotations: must be",
        ),
        (None, {"annotations": [SAID | {"answers": "dog"}]}, "a.json: entry 1 of annotations: answers must be a list"),
        (None, {"annotations": [SAID | {"answers": [{"answer": 2}]}]}, "answer must be a text, and is a number, 2"),
        (None, {"annotations": [SAID | {"question_type": 3}]}, "question_type must be a text, and is a number, 3"),
        (None, 7, "a.json: must be an object with keys, and is a number"),
    ],
)
def test_two_files_of_questions(tmp_path, asked, said, words):
    questions = write_json(tmp_path / "q.json", {"questions": [ASKED]} if asked is None else asked)
    answers = write_json(tmp_path / "a.json", {"annotations": [SAID]} if said is None else said)
    with pytest.raises(ValueError) as error:
        read_questions(questions, answers, files={1: "1.jpg"})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"7": GQA | {"question": 3}}, "7: question must be a text, and is a number, 3"),
        ({"seven": GQA}, "seven: question 'seven' of image '1': both must be numbers"),
        ({"7": GQA | {"imageId": "x1"}}, "7: question '7' of image 'x1': both must be numbers"),
        ({"7": GQA | {"imageId": 1}}, "7: imageId must be a text, and is a number, 1"),
        ({"7": GQA, "8": ["what?"]}, "8: must be an object with keys, and is a list"),
        ([{"qas": [VG | {"answer": None}]}], "entry 1 of qas of entry 1: answer is null"),
        ([{"qas": [VG]}, {"id": 2}], "entry 2: qas is not there"),
        ([POPE, POPE | {"label": True}], "entry 2: label must be a text, and is true or false, true"),
    ],
)
def test_one_file_of_questions(tmp_path, content, words):
    file = write_json(tmp_path / "q.json", content)
    for read in (read_questions, question_types):
        with pytest.raises(ValueError) as error:
            read(file)
        assert str(error.value).startswith(f"{file}: {words}")


def test_visual_genome_and_binding_too(tmp_path):
    image, region = {"image_id": 1, "url": "http://x/VG_100K/1.jpg"}, {"id": 1, "regions": [{"phrase": "a dog"}]}
    for images, regions, words in (
        ([image | {"url": 5}], [region], "i.json: entry 1: url must be a text"),
        ([image, image], [region], "i.json: entry 2: image id 1 is listed twice"),
        ({"1": image}, [region], "i.json: must be a list, and is an object"),
        (
            [image],
            [region | {"regions": [{"phrase": 3}]}],
            "r.json: entry 1 of regions of entry 1: phrase must be a text",
        ),
        ([image], [region | {"id": "x"}], "r.json: entry 1: image x has regions and is not in"),
    ):
        with pytest.raises(ValueError) as error:
            read_regions(write_json(tmp_path / "i.json", images), write_json(tmp_path / "r.json", regions), set())
        assert words in str(error.value)
    for regions, words in (
        ([], r"r\.json: of 1 images in .*i\.json none is left"),
        ([region | {"regions": [{"phrase": "a", "image_id": 2}]}], r"it is of image 2, among those of image 1"),
    ):
        with pytest.raises(ValueError, match=words):
            read_regions(write_json(tmp_path / "i.json", [image]), write_json(tmp_path / "r.json", regions), set())
    first = {"id": 1, "url": "http://x/VG_100K/1.jpg", "coco_id": None}  # of version 1.0
    read = read_regions(write_json(tmp_path / "i.json", [first]), write_json(tmp_path / "r.json", [region]), set())
    assert list(read.files) == ["VG_100K/1.jpg"] and read.image_ids.tolist() == [1]
    pairs = {
        "images": [IMAGE, IMAGE | {"id": 2, "file_name": "2.jpg"}],
        "pairs": [{"image_id": 1, "swapped_image_id": 2, "caption": 4}],
    }
    with pytest.raises(ValueError, match=r"b\.json: entry 1 of pairs: caption must be a text, and is a number, 4"):
        read_binding(write_json(tmp_path / "b.json", pairs))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_numbers_as_texts_null_captions_and_a_byte_order_mark(tmp_path, encoding):
    """What people's files do hold, and has one meaning alone."""
    content = coco((1, "one"), (1, None), ("2", "two"), ids=(1, "2"))
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content), encoding=encoding)
    with pytest.warns(UserWarning, match="1 empty captions left out"):
        read = read_captions(file)
    assert read.image_ids.tolist() == [1, 2] and list(read.texts) == ["one", "two"]
    assert evaluated_ids(file) == {1, 2} and image_files(file) == {1: "1.jpg", 2: "2.jpg"}


@pytest.mark.parametrize("image_id", ["-3", "1.5", "7.0", -3, 2**44, 2.5])
def test_an_image_id_is_never_read_in_part(tmp_path, image_id):
    file = write_json(tmp_path / "c.json", [{"image": "a.jpg", "caption": "a dog", "image_id": image_id}])
    with pytest.raises(ValueError, match=r"c\.json: entry 1: (image_id must be|image id -?\d+ does not lie in)"):
        read_captions(file)


def test_json_that_is_cut_or_says_a_thing_twice(tmp_path):
    file = tmp_path / "x.json"
    for text, words in (
        ('{"a": 1}\n{"a": ', "line 2 is not JSON"),
        ('{"a": [1, 2', "is not JSON"),
        ('{"a": 1, "a": 2}', "key 'a' stands twice in one object, with a number, 1 and a number, 2"),
        ("[" * 100_000, "is not JSON"),
        ("", "is not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"x\.json"):
            try:
                read_json(file)
            except ValueError as error:
                assert words in str(error)
                raise
    file.write_text('{"a": 1}\n\n{"a": "\u2028"}\n', encoding="utf-8")
    assert read_json(file) == [{"a": 1}, {"a": "\u2028"}]
    file.write_bytes("a".encode("utf-16"))
    with pytest.raises(ValueError, match=r"x\.json cannot be read: 'utf-8'.*Save it as UTF-8"):
        read_json(file)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "a.jpg", "caption": "x", "caption": "y"}', "key 'caption' stands twice in one object"),
        ('{"image": "a.jpg", "caption": ' + "[" * 100_000, "recursion"),
        ('{"image": "a.jpg"', "delimiter"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_lines_of_json_are_refused_by_file_and_line(tmp_path, name, line, words):
    file = tmp_path / name
    file.write_text('{"image": "b.jpg", "caption": "z"}\n' + line + "\n")
    for read in (read_captions, read_questions):
        with pytest.raises(ValueError, match=rf"{name}: line 2 is not JSON: .*{words}"):
            read(file)


def test_absent_null_and_empty_are_three_things():
    entry = Entry({"null": None, "empty": "", "zero": 0}, "x.json")
    assert entry.text("gone", default="d") == entry.text("null", default="d") == "d"
    assert entry.text("null", null="n") == "n" and entry.text("empty", default="d", null="n") == ""
    assert entry.number("zero", default=5) == 0 and entry.number("gone", default=None) is None
    with pytest.raises(ValueError, match="gone is not there"):
        entry.text("gone", null="n")


def test_a_file_of_no_object_and_a_flag_in_quotes_are_refused_too(tmp_path):
    file = write_json(tmp_path / "x.json", 7)
    for read in (read_questions, read_captions):
        with pytest.raises(ValueError, match=r"x\.json: must be an object.*and is a number, 7"):
            read(file)
    content = {"images": [IMAGE], "annotations": [MARK | {"is_rejected": "false"}]}
    with pytest.raises(ValueError, match=r'is_rejected must be true or false, and is a text, "false"'):
        read_captions(write_json(tmp_path / "v.json", content))
    with pytest.raises(ValueError, match=r"d\.json: entry 1 of data: must be an object"):
        read_captions(write_json(tmp_path / "d.json", {"data": [1]}))
    pope = [POPE | {"image": f"COCO_{'9' * 30}.jpg"}]
    assert read_questions(write_json(tmp_path / "p.json", pope)).image_ids.tolist()[0] < 2**44
