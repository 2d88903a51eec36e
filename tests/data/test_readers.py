import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_blip2.data.binding import read_binding
from lit_blip2.data.captions import clean_caption, read_captions
from lit_blip2.data.strings import Strings
from lit_blip2.data.vqa import question_types, read_questions


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def listed(ids):
    return [{"id": i, "file_name": f"{i:012d}.png"} for i in ids]


def table(captions):
    """What a Captions holds, in plain Python."""
    ids = captions.image_ids.tolist()
    return {i: (captions.files[k], captions.of(k)) for k, i in enumerate(ids)}


def coco(*rows, ids=(1, 2)):
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in ids],
        "annotations": [{"id": k, "image_id": i, "caption": text} for k, (i, text) in enumerate(rows)],
    }


@given(st.lists(st.text()))
def test_strings_come_back(texts):
    strings = Strings(texts)
    assert list(strings) == texts and len(strings) == len(texts)
    assert list(pickle.loads(pickle.dumps(strings))) == texts
    if texts:
        assert strings[-1] == texts[-1]
    with pytest.raises(IndexError):
        strings[len(texts)]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Red, red ROSE.", "a red, red rose"),
        ('a.b!c"d(e)f*g#h:i;j~k', "a b c d e f g h i j k"),
        ("  two\n lines\t here ", "two lines here"),
        ("it's 3-d / fine?", "it's 3-d / fine?"),
        ("...", ""),
    ],
)
def test_clean_caption(text, cleaned):
    assert clean_caption(text) == cleaned


def test_captions_are_cut_at_fifty_words():
    assert clean_caption("word " * 60) == " ".join(["word"] * 50)
    assert clean_caption("a b c d", max_words=2) == "a b"


def test_coco_layout(tmp_path):
    path = write_json(tmp_path / "c.json", coco((2, "Two."), (1, "One!"), (2, "Zwei")))
    assert table(read_captions(path)) == {1: ("1.jpg", ["one"]), 2: ("2.jpg", ["two", "zwei"])}


def test_lavis_layouts(tmp_path):
    train = [
        {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "One.", "image_id": "coco_42"},
        {"image": "train2014/x.jpg", "caption": "Other.", "image_id": 7},
        {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "Two.", "image_id": "coco_42"},
    ]
    path = write_json(tmp_path / "train.json", train)
    assert table(read_captions(path)) == {
        42: ("val2014/COCO_val2014_000000000042.jpg", ["one", "two"]),
        7: ("train2014/x.jpg", ["other"]),
    }
    val = [{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["One", "Two"]}]
    assert table(read_captions(write_json(tmp_path / "val.json", val)))[42][1] == ["one", "two"]
    unnamed = write_json(tmp_path / "unnamed.json", [{"image": "rose.jpg", "caption": "a rose"}])
    with pytest.raises(ValueError, match="no number at the end of 'rose'"):
        read_captions(unnamed)
    twice = [{"image": f"{name}.jpg", "caption": "x", "image_id": 3} for name in "ab"]
    with pytest.raises(ValueError, match=r"image id 3 stands for both a\.jpg and b\.jpg"):
        read_captions(write_json(tmp_path / "twice.json", twice))


def test_karpathy_layout(tmp_path):
    images = [
        {
            "filepath": "val2014",
            "filename": f"{i}.jpg",
            "cocoid": i,
            "imgid": 99,
            "split": split,
            "sentences": [{"raw": "A."}],
        }
        for i, split in enumerate(["train", "restval", "val", "test"])
    ]
    path = write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert read_captions(path, "train").image_ids.tolist() == [0, 1]
    assert table(read_captions(path, "test")) == {3: ("val2014/3.jpg", ["a"])}


def test_an_empty_caption_is_left_out_if_another_stays(tmp_path):
    path = write_json(tmp_path / "c.json", coco((1, ""), (1, "one"), (1, " . "), (2, "two")))
    with pytest.warns(UserWarning, match="2 empty captions left out") as caught:
        captions = read_captions(path)
    assert len(caught) == 1 and captions.of(0) == ["one"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco((1, "one"), (2, "...")), "image 2 has no caption, or only empty"),
        (coco((1, "one")), "image 2 has no caption"),
        (coco((1, "one"), (2, "two"), (5, "five")), "annotation 2 belongs to image 5"),
        (coco((1, "one"), ids=(1, 1)), "image id 1 is listed twice"),
        (coco(ids=()), "no images of split 'train'"),
        ({"pictures": []}, r"its keys are \['pictures'\]"),
    ],
)
def test_faults_name_the_file_and_the_id(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captions(write_json(tmp_path / "faulty.json", content))
    assert "faulty.json" in str(error.value)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        read_captions(tmp_path / "gone.json")
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"half\.json is not JSON"):
        read_captions(tmp_path / "half.json")


def test_drawn_captions_are_all_reached_and_cost_one_draw(tmp_path):
    captions = read_captions(write_json(tmp_path / "c.json", coco((1, "a"), (1, "b"), (1, "c"), (2, "only"))))
    drawn = [captions.draw(0, np.random.default_rng(i))["caption"] for i in range(300)]
    assert {text: 70 < drawn.count(text) < 130 for text in "abc"} == dict.fromkeys("abc", True)
    one, three = np.random.default_rng(0), np.random.default_rng(0)
    captions.draw(1, one), captions.draw(0, three)
    assert one.random() == three.random()


def vqa_files(folder, asked, answered, **extra):
    questions = [{"question_id": q, "image_id": i, "question": f"q{q} ?"} for q, i in asked]
    marks = [
        {
            "question_id": q,
            "image_id": i,
            "question_type": "what",
            "answers": [{"answer": f"a{q}{k}"} for k in range(n)],
        }
        for q, i, n in answered
    ]
    first = write_json(folder / "questions.json", {"questions": questions, **extra})
    return first, write_json(folder / "answers.json", {"annotations": marks})


def test_questions_are_sorted_by_image_with_their_own_answers(tmp_path):
    asked, answered = [(5, 20), (3, 10), (4, 20)], [(3, 10, 2), (4, 20, 2), (5, 20, 2)]
    questions = read_questions(*vqa_files(tmp_path, asked, answered), files={10: "ten.png", 20: "twenty.png"})
    assert questions.question_ids.tolist() == [3, 4, 5] and questions.image_ids.tolist() == [10, 20, 20]
    assert list(questions.texts) == ["q3 ?", "q4 ?", "q5 ?"] and list(questions.types) == ["what"] * 3
    assert questions.answers_of(2) == ["a50", "a51"]
    assert list(questions.files) == ["ten.png", "twenty.png", "twenty.png"]


def test_image_files_are_named_as_coco_does(tmp_path):
    paths = vqa_files(tmp_path, [(1, 42)], [(1, 42, 10)], data_subtype="val2014")
    assert read_questions(*paths).files[0] == "val2014/COCO_val2014_000000000042.jpg"
    with pytest.raises(ValueError, match="no file name is known for image 42"):
        read_questions(*vqa_files(tmp_path, [(1, 42)], [(1, 42, 10)]))


@pytest.mark.parametrize(
    ("asked", "answered", "message"),
    [
        ([(1, 7), (1, 7)], [(1, 7, 10)], "questions.json: question id 1 stands there twice"),
        ([(1, 7)], [(1, 7, 10), (1, 7, 10)], "answers.json: question id 1 stands there twice"),
        ([(1, 7), (2, 7)], [(1, 7, 10), (3, 7, 10)], r"2 question ids stand in only one of .*\[2, 3\]"),
        ([(1, 7)], [(1, 8, 10)], "question 1 belongs to image 7 .* image 8"),
        ([(1, 7), (2, 7)], [(1, 7, 10), (2, 7, 9)], "numbers of answers differ.*{10: 1, 9: 2}"),
        ([], [], "questions.json holds no questions"),
    ],
)
def test_question_faults_name_the_ids(tmp_path, asked, answered, message):
    with pytest.raises(ValueError, match=message):
        read_questions(*vqa_files(tmp_path, asked, answered), files={7: "x"})


def test_binding_pairs(tmp_path):
    rows = [{"image_id": 2, "swapped_image_id": 1, "caption": "Red, blue."}]
    pairs = read_binding(write_json(tmp_path / "b.json", {"images": listed([1, 2]), "pairs": rows}))
    assert (pairs.image_ids.tolist(), pairs.swapped_image_ids.tolist()) == ([2], [1])
    assert (pairs.files[0], pairs.swapped_files[0]) == ("000000000002.png", "000000000001.png")
    assert pairs.captions[0] == "red, blue"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swapped_image_id": 3}, r"image 3 of pair \(2, 3\) is not in"),
        ({"swapped_image_id": 2}, r"pair \(2, 2\) needs two images"),
        ({"caption": "."}, r"pair \(2, 1\) needs two images and a caption"),
    ],
)
def test_binding_faults(tmp_path, change, message):
    row = {"image_id": 2, "swapped_image_id": 1, "caption": "red"} | change
    with pytest.raises(ValueError, match=message):
        read_binding(write_json(tmp_path / "b.json", {"images": listed([1, 2]), "pairs": [row]}))
    with pytest.raises(ValueError, match="holds no pairs"):
        read_binding(write_json(tmp_path / "none.json", {"images": [], "pairs": []}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.csv", 'image,caption\na.jpg,"A dog, two."\nsub/b.jpg,A cat\na.jpg,Again\n'),
        (
            "mine.jsonl",
            '{"image": "a.jpg", "caption": ["A dog, two.", "Again"]}\n\n{"image": "sub/b.jpg", "caption": "A cat"}\n',
        ),
    ],
)
def test_a_table_of_one_s_own(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    captions = read_captions(tmp_path / name)
    assert list(captions.files) == ["a.jpg", "sub/b.jpg"] and captions.image_ids.tolist() == [0, 1]
    assert captions.of(0) == ["a dog, two", "again"] and captions.of(1) == ["a cat"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"image,text\na.jpg,A dog\n", r"x\.csv: row 1 needs image and caption, and has \['image', 'text'\]"),
        ("x.jsonl", b'{"image": "a.jpg"}\n', r"x\.jsonl: row 1 needs image and caption"),
        ("x.jsonl", b'{"image": \n', r"x\.jsonl cannot be read"),
        ("x.csv", b"image,caption\na.jpg,caf\xe9\n", r"x\.csv cannot be read: 'utf-8'"),
        ("x.csv", b"image,caption,image_id\na.jpg,A,1\nb.jpg,B,1\n", "two images have one image_id"),
        ("x.csv", b"image,caption\na.jpg,.\n", r"x\.csv: image 0 has no caption, or only empty ones"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_captions(tmp_path / name)


def test_gqa_has_its_answers_with_the_questions(tmp_path):
    content = {
        "05515938": {
            "imageId": "2370799",
            "question": "Is it red? ",
            "answer": "no",
            "types": {"structural": "verify"},
        },
        "201307251": {
            "imageId": "n161313",
            "question": "What is it?",
            "answer": "cup",
            "types": {"structural": "query"},
        },
    }
    path = write_json(tmp_path / "testdev.json", content)
    table = read_questions(path)
    assert table.question_ids.tolist() == [5515938, 201307251]
    assert table.image_ids.tolist() == [2370799, 10**10 + 161313]
    assert list(table.files) == ["2370799.jpg", "n161313.jpg"] and list(table.texts) == ["Is it red?", "What is it?"]
    assert list(table.types) == ["verify", "query"] and table.answers_of(1) == ["cup"]
    assert question_types(path) == {"verify", "query"}


def test_visual_genome_has_its_answers_with_the_questions(tmp_path):
    qas = [{"qa_id": 9, "image_id": 4, "question": "Where is the cat?", "answer": "On the mat.", "a_objects": []}]
    path = write_json(tmp_path / "question_answers.json", [{"id": 4, "qas": qas}, {"id": 5, "qas": []}])
    table = read_questions(path)
    assert (table.question_ids.tolist(), table.image_ids.tolist(), list(table.files)) == ([9], [4], ["4.jpg"])
    assert list(table.types) == ["where"] and table.answers_of(0) == ["On the mat"]


def test_pope_has_a_line_for_each_question(tmp_path):
    row = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard?", "label": "yes"}
    lines = [row, row | {"question_id": 2, "text": "Is there a car?", "label": "no"}]
    path = tmp_path / "coco_pope_random.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_questions(path)
    assert table.image_ids.tolist() == [310196, 310196] and list(table.files) == [row["image"]] * 2
    assert table.answers_of(1) == ["no"] and question_types(path) == {"pope"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (row, row)))
    with pytest.raises(ValueError, match=r"random\.json: question id 1 stands there twice"):
        read_questions(path)
    path.write_text("".join(json.dumps(line | {"image": "x.jpg"}) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"question 1: 'x\.jpg' ends in no image id"):
        read_questions(path)


def test_questions_without_answers_say_what_is_missing(tmp_path):
    path = write_json(tmp_path / "q.json", {"questions": []})
    with pytest.raises(ValueError, match="need their annotations as well"):
        read_questions(path)


def test_a_pair_takes_less_than_a_hundred_bytes(tmp_path):
    """Captions as long as COCO's, five of each image."""
    text = "A man riding a wave on top of a surfboard in the sea."
    pairs = coco(*((n, f"{text[:-1]} {n} {k}") for n in range(200) for k in range(5)), ids=range(200))
    captions = read_captions(write_json(tmp_path / "c.json", pairs))
    arrays = [captions.image_ids, captions.first]
    arrays += [array for strings in (captions.files, captions.texts) for array in (strings.buffer, strings.offsets)]
    assert sum(array.nbytes for array in arrays) / len(captions.texts) < 100


def test_flickr30k_as_karpathy_split_it(tmp_path):
    """It has no cocoid and no filepath."""
    words = {"tokens": ["a", "dog"], "raw": "A dog .", "imgid": 0, "sentid": 0}
    images = [
        {"sentids": [0], "imgid": k, "sentences": [words], "split": split, "filename": f"{1000 + k}.jpg"}
        for k, split in enumerate(["train", "test", "test", "val"])
    ]
    file = write_json(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    assert table(read_captions(file, "test")) == {1: ("1001.jpg", ["a dog"]), 2: ("1002.jpg", ["a dog"])}


def test_nocaps_validation_captions(tmp_path):
    images = [{"id": k, "file_name": f"{k}ab.jpg", "open_images_id": f"{k}ab", "domain": "in-domain"} for k in (0, 1)]
    marks = [{"image_id": k % 2, "id": k, "caption": f"Caption {k}."} for k in range(4)]
    content = {"licenses": [], "info": {}, "images": images, "annotations": marks}
    read = table(read_captions(write_json(tmp_path / "nocaps_val_4500_captions.json", content), "val"))
    assert read == {0: ("0ab.jpg", ["caption 0", "caption 2"]), 1: ("1ab.jpg", ["caption 1", "caption 3"])}


def test_nocaps_domains_and_captions_as_written_are_kept_to_test_on(tmp_path):
    images = [{"id": k, "file_name": f"{k}.jpg", "domain": f"{name}-domain"} for k, name in enumerate(["near", "out"])]
    marks = [{"image_id": k % 2, "id": k, "caption": text} for k, text in enumerate(["A Cat.", "Dogs!", ".", "a: B"])]
    path = write_json(tmp_path / "nocaps.json", {"images": images, "annotations": marks})
    with pytest.warns(UserWarning, match="1 empty captions left out"):
        read = read_captions(path, "test")
    assert list(read.domains) == ["near-domain", "out-domain"]
    assert [read.of(k) for k in (0, 1)] == [["a cat"], ["dogs", "a b"]]
    assert [read.written_of(k) for k in (0, 1)] == [["A Cat."], ["Dogs!", "a: B"]]
    with pytest.warns(UserWarning):
        assert read_captions(path, "val").domains is None
    del images[1]["domain"]
    path = write_json(tmp_path / "nocaps.json", {"images": images, "annotations": marks[:2]})
    with pytest.raises(ValueError, match="1 images have no domain, the first is image 1"):
        read_captions(path, "test")


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": k, "file_name": f"{k}.jpg", "domain": "in-domain"} for k in (5, 7)], "info": {}},
        [{"image": "5.jpg", "img_id": 5}, {"image": "7.jpg", "img_id": 7}],
    ],
)
def test_a_servers_images_need_no_captions_to_test_on(tmp_path, content):
    path = write_json(tmp_path / "nocaps_test_image_info.json", content)
    with pytest.warns(UserWarning, match=r"info\.json holds no captions: they are generated, not scored"):
        read = read_captions(path, "test")
    assert table(read) == {5: ("5.jpg", []), 7: ("7.jpg", [])} and len(read) == 2
    with pytest.raises(ValueError, match=r"info\.json"):
        read_captions(path, "val")


def test_some_captions_missing_is_no_servers_list(tmp_path):
    rows = [{"image": "5.jpg", "img_id": 5, "caption": "a dog"}, {"image": "7.jpg", "img_id": 7}]
    with pytest.raises(ValueError, match="image 7 has no caption"):
        read_captions(write_json(tmp_path / "lavis.json", rows), "test")


def test_a_servers_questions_need_no_answers_to_test_on(tmp_path):
    asked = [{"question_id": 9, "image_id": 4, "question": "Why?"}, {"question_id": 2, "image_id": 4, "question": "A?"}]
    path = write_json(tmp_path / "q.json", {"questions": asked, "data_subtype": "test2015"})
    with pytest.warns(UserWarning, match=r"q\.json comes without answers"):
        read = read_questions(path, unanswered=True)
    assert read.question_ids.tolist() == [2, 9] and list(read.types) == ["question"] * 2
    assert read.answers_of(0) == read.answers_of(1) == [] and question_types(path) == frozenset()
    assert read.files[0] == "test2015/COCO_test2015_000000000004.jpg"
    with pytest.raises(ValueError, match="need their annotations as well"):
        read_questions(path)


def test_ok_vqa_has_the_files_of_vqav2(tmp_path):
    """Its answers are stemmed, with what people wrote as raw_answer; the type is a number's name."""
    asked = {"data_subtype": "val2014", "questions": [{"image_id": 42, "question": "What sport?", "question_id": 420}]}
    answers = [
        {"answer_id": k, "raw_answer": "surfing", "answer_confidence": "yes", "answer": "surf"} for k in range(10)
    ]
    mark = {"image_id": 42, "question_id": 420, "question_type": "eight", "answer_type": "other", "answers": answers}
    marks = {"annotations": [mark], "question_types": {"eight": "Sports and Recreation"}}
    read = read_questions(write_json(tmp_path / "q.json", asked), write_json(tmp_path / "a.json", marks))
    assert read.answers_of(0) == ["surf"] * 10 and read.types[0] == "eight"
    assert read.files[0] == "val2014/COCO_val2014_000000000042.jpg"


def test_lines_end_where_lines_end(tmp_path):
    """A line separator may stand in JSON, a line break in a quoted field, a mark before a spreadsheet's first."""
    lines = [json.dumps({"image": "a.jpg", "caption": "one\u2028two"}, ensure_ascii=False), ""]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert table(read_captions(tmp_path / "x.jsonl")) == {0: ("a.jpg", ["one two"])}
    (tmp_path / "x.csv").write_text('\ufeffimage,caption\na.jpg,"a red dog\nruns"\n', encoding="utf-8")
    assert table(read_captions(tmp_path / "x.csv")) == {0: ("a.jpg", ["a red dog runs"])}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image": "a.jpg", "image_id": 1, "caption": "\ud800"}], "is no text in UTF-8"),
        ([{"image": "9" * 20 + ".jpg", "caption": "a"}], "image id 9+ does not lie in"),
        ([{"image": "a.jpg", "image_id": -3, "caption": "a"}], "image id -3 does not lie in"),
        ([{"url": "x", "caption": "a"}], "entry 1 needs image and caption"),
    ],
)
def test_entries_that_cannot_be_read_name_the_file(tmp_path, content, words):
    file = write_json(tmp_path / "x.json", content)
    with pytest.raises(ValueError, match=f"x.json: .*{words}"):
        read_captions(file)
