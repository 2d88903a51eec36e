"""Every layout that README names, from a small file with the official keys and values, and what is said of others."""

import json
from pathlib import Path

import pytest

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import evaluated_ids, image_files, read_captions
from lit_blip2.data.annotations.ids import ID_SPACE, image_number, last_digits
from lit_blip2.data.annotations.questions import question_types, read_questions
from tests.data.annotations.test_captions import table, write_json

HEX = "0054c91397f2fe05"  # an image of OpenImages, as TextVQA and TextCaps call it
GQA = {"imageId": "n161313", "question": "What is on the shelf?", "isBalanced": True}
GQA_ANSWERED = GQA | {
    "answer": "cup", "fullAnswer": "The cup is on the shelf.", "types": {"structural": "query", "semantic": "rel"},
    "semantic": [], "entailed": [], "equivalent": ["05515938"], "groups": {"global": "", "local": "13-shelf"},
}  # fmt: skip
AOKVQA = {
    "split": "train", "image_id": 299207, "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "What is the man by the bags awaiting?", "choices": ["skateboarder", "train", "delivery", "cab"],
}  # fmt: skip
AOKVQA_ANSWERED = AOKVQA | {
    "correct_choice_idx": 3, "direct_answers": ["ride"] * 2 + ["cab"] * 8, "difficult_direct_answer": False,
    "rationales": ["He has bags."],
}  # fmt: skip
TEXTVQA = {
    "question": "what is the brand of this camera?", "image_id": HEX, "image_classes": ["Cassette deck"],
    "image_width": 1024, "image_height": 730, "question_tokens": ["what"], "question_id": 34602, "set_name": "val",
}  # fmt: skip
VIZWIZ = {"image": "VizWiz_val_00000007.jpg", "question": "Ok. There is another picture I hope it is a better one."}
VIZWIZ_ANSWERED = VIZWIZ | {
    "answers": [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10, "answer_type": "other", "answerable": 0,
}  # fmt: skip
LAVIS = {"question_id": 262148000, "question": "Where is he looking?", "image": "val2014/COCO_val2014_000000262148.jpg"}


def top(rows, **more):
    return {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows, **more}


SCIENCE = {"image": "image.png", "question": "Which is heavier?", "choices": ["a pen", "a car"], "answer": 1}
V1 = {
    "info": {"version": "1.0"}, "task_type": "Multiple-Choice", "data_type": "mscoco", "data_subtype": "val2014",
    "license": {}, "questions": [{"question": "What is it?", "image_id": 42, "question_id": 420, "multiple_choices":
    ["yes", "no", "a cat", "2"]}],
}  # fmt: skip
V7W = {"dataset": "Visual7W-telling", "images": [{
    "split": "train", "image_id": 2338, "filename": "v7w_2338.jpg", "qa_pairs": [{"image_id": 2338, "qa_id": 5,
    "question": "What is it?", "answer": "A cat.", "multiple_choices": ["A dog.", "A cow.", "A hat."], "type": "what"}],
}]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "row", "answers", "server"),
    [
        ({"05515938": GQA_ANSWERED}, ("05515938", "n161313.jpg", "query"), ["cup"], "gqa"),
        ([AOKVQA_ANSWERED], (AOKVQA["question_id"], "train2017/000000299207.jpg", "question"), 10, "aokvqa"),
        (
            [AOKVQA_ANSWERED | {"image": "val2014/COCO_val2014_000000299207.jpg", "dataset": "aokvqa"}],  # LAVIS' copy
            (AOKVQA["question_id"], "val2014/COCO_val2014_000000299207.jpg", "question"), 10, "aokvqa",
        ),
        (top([TEXTVQA | {"answers": ["nous les gosses"] * 10}]), (34602, f"{HEX}.jpg", "question"), 10, "vqa"),
        ([VIZWIZ_ANSWERED], (VIZWIZ["image"], VIZWIZ["image"], "other"), 10, "vizwiz"),
        ([LAVIS | {"answer": ["down"] * 10, "dataset": "vqa"}], (262148000, LAVIS["image"], "question"), 10, "vqa"),
        (  # LAVIS' vg_qa.json has no question ids
            [{"image": "VG_100K_2/1.jpg", "question": "Where?", "answer": "On a wall.", "dataset": "vg"}],
            (0, "VG_100K_2/1.jpg", "question"), ["On a wall"], "vqa",
        ),
        (  # LAVIS' GQA
            [{"image": "2375429.jpg", "question": "Is it?", "question_id": "02930152", "answer": "yes"}],
            ("02930152", "2375429.jpg", "question"), ["yes"], "vqa",
        ),
    ],
)  # fmt: skip
def test_questions_with_their_answers(tmp_path, content, row, answers, server):
    file = write_json(tmp_path / "questions.json", content)
    read = read_questions(file)
    assert (read.written_id(0), read.files[0], read.types[0]) == row and read.server == server
    assert len(read.answers_of(0)) == answers if isinstance(answers, int) else read.answers_of(0) == answers
    assert question_types(file) == {row[2]}
    file.write_text(json.dumps(content), encoding="utf-8-sig")  # as some editors save it
    assert read_questions(file).written_id(0) == row[0]


def test_multiple_choice_is_not_read_beside_its_annotations_either(tmp_path):
    mark = {"question_id": 420, "image_id": 42, "question_type": "what", "answers": [{"answer": "yes"}] * 10}
    annotations = write_json(tmp_path / "mscoco_val2014_annotations.json", {"annotations": [mark]})
    questions = write_json(tmp_path / "MultipleChoice_mscoco_val2014_questions.json", V1)
    with pytest.raises(ValueError, match=r"MultipleChoice_.*is not read: .*give OpenEnded_mscoco"):
        read_questions(questions, annotations)
    row = {name: value for name, value in V1["questions"][0].items() if name != "multiple_choices"}
    asked = write_json(tmp_path / "o.json", V1 | {"task_type": "Open-Ended", "questions": [row]})
    assert read_questions(asked, annotations).answers_of(0) == ["yes"] * 10


def test_aokvqa_tells_of_questions_that_its_own_script_leaves_out(tmp_path):
    rows = [AOKVQA_ANSWERED, AOKVQA_ANSWERED | {"question_id": "x", "difficult_direct_answer": True}]
    with pytest.warns(UserWarning, match=r"q\.json: 1 questions are marked difficult_direct_answer"):
        assert len(read_questions(write_json(tmp_path / "q.json", rows))) == 2


def test_captions_that_may_be_false_are_refused(tmp_path):
    row = {"image": "1.jpg", "image_link": "x", "caption": "A cup is on it.", "label": 0, "relation": "on"}
    (tmp_path / "vsr.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"vsr\.jsonl: line 1: VSR's captions, true or false.*label 1"):
        read_captions(tmp_path / "vsr.jsonl")
    mark = {"caption": "A cup.", "id": 1, "image_id": 1, "foil": False, "foil_id": 1, "target_word": "ORIG"}
    foil = write_json(tmp_path / "foil.json", {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [mark]})
    with pytest.raises(ValueError, match=r"foil\.json: entry 1 of annotations: FOIL's captions"):
        read_captions(foil)


@pytest.mark.parametrize(
    ("content", "name", "file"),
    [
        ({"201640614": GQA}, "201640614", "n161313.jpg"),
        ({"201640614": GQA | {"types": None, "answer": None}}, "201640614", "n161313.jpg"),
        ([AOKVQA | {"split": "test"}], AOKVQA["question_id"], "test2017/000000299207.jpg"),
        (top([TEXTVQA | {"set_name": "test"}]), 34602, f"{HEX}.jpg"),
        ([VIZWIZ], VIZWIZ["image"], VIZWIZ["image"]),
        ([LAVIS | {"dataset": "vqa"}], 262148000, LAVIS["image"]),
    ],
)
def test_a_servers_questions_have_no_answers(tmp_path, content, name, file):
    path = write_json(tmp_path / "test.json", content)
    with pytest.warns(UserWarning, match=r"test\.json comes without answers"):
        read = read_questions(path, split="test")
    assert (read.written_id(0), read.files[0], read.answers_of(0)) == (name, file, [])
    assert question_types(path) == frozenset()
    with pytest.raises(ValueError, match=r"test\.json holds no answers.*data\.vqa_test"):
        read_questions(path)


def test_some_questions_without_an_answer_are_no_servers(tmp_path):
    path = write_json(tmp_path / "q.json", {"1": GQA, "2": GQA_ANSWERED})
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"q\.json: numbers of answers differ.*\{0: '1', 1: '2'\}"):
            read_questions(path, split=split)


def test_ids_that_are_texts_pair_questions_and_answers(tmp_path):
    asked = [{"question_id": f"q{k}", "image_id": "42", "question": "Why?"} for k in (2, 1)]
    marks = [{"question_id": f"q{k}", "image_id": 42, "question_type": "why", "answers": [{"answer": f"{k}"}] * 10}
             for k in (1, 2)]  # fmt: skip
    questions = write_json(tmp_path / "q.json", {"questions": asked, "data_subtype": "val2014"})
    read = read_questions(questions, write_json(tmp_path / "a.json", {"annotations": marks}))
    assert {read.written_id(k): read.answers_of(k)[0] for k in (0, 1)} == {"q1": "1", "q2": "2"}
    assert list(read.files) == ["val2014/COCO_val2014_000000000042.jpg"] * 2
    asked[0]["image_id"] = asked[1]["image_id"] = marks[0]["image_id"] = marks[1]["image_id"] = "park"
    questions = write_json(tmp_path / "q.json", {"questions": asked, "data_subtype": "val2014"})
    with pytest.raises(ValueError, match="no file name is known for image park"):
        read_questions(questions, write_json(tmp_path / "a.json", {"annotations": marks}))


def test_textcaps(tmp_path):
    row = {"image_id": HEX, "image_name": HEX, "image_path": f"train/{HEX}.jpg", "set_name": "val", "caption_id": 7}
    rows = [row | {"caption_str": text, "reference_strs": ["A sign.", "Two signs."]} for text in ("A sign.", "Two.")]
    file = write_json(tmp_path / "TextCaps_0.1_val.json", top(rows))
    read = read_captions(file, "val")
    assert list(read.files) == [f"{HEX}.jpg"] and read.of(0) == ["a sign", "two"] and read.written_id(0) == HEX
    assert read.image_ids[0] == image_number(HEX) and ID_SPACE // 2 <= image_number(HEX) < ID_SPACE


def test_vizwiz_leaves_out_captions_that_were_rejected(tmp_path):
    images = [
        {"file_name": f"VizWiz_val_{k:08d}.jpg", "vizwiz_url": "x", "id": k, "text_detected": True} for k in (0, 1)
    ]
    mark = {"caption": "A red tin", "image_id": 0, "is_precanned": False, "is_rejected": False, "id": 0}
    spam = mark | {"caption": "Quality issues are too severe to recognize visual content.", "is_precanned": True}
    content = {"info": {}, "images": images, "annotations": [mark, spam, spam | {"image_id": 1}]}
    with pytest.warns(
        UserWarning, match=r"val\.json: 2 captions left out, .*; 1 images left out, whose captions are all rejected"
    ):
        assert table(read_captions(write_json(tmp_path / "val.json", content))) == {
            0: (images[0]["file_name"], ["a red tin"])
        }


def test_flickr30ks_own_file(tmp_path):
    file = tmp_path / "results_20130124.token"
    file.write_text("1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men .\n10002456.jpg#0\tSeveral men .\n")
    read = {1000092795: ("1000092795.jpg", ["two young guys", "two men"]), 10002456: ("10002456.jpg", ["several men"])}
    assert table(read_captions(file)) == read
    file.write_text("1000092795.jpg#0 Two young guys .\n")
    with pytest.raises(ValueError, match=r"token: line 1: needs FILE#NUMBER, a tab and a caption, and is '1000"):
        read_captions(file)


def test_hugging_faces_metadata(tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"file_name": "0001.png", "text": "A man."}\n{"file_name": "0002.png", "text": "A boat."}\n')
    assert table(read_captions(file)) == {0: ("0001.png", ["a man"]), 1: ("0002.png", ["a boat"])}
    (tmp_path / "metadata.csv").write_text("file_name,text\n0001.png,A man.\n")
    assert table(read_captions(tmp_path / "metadata.csv")) == {0: ("0001.png", ["a man"])}


def test_images_called_by_words_have_the_same_numbers_in_every_file(tmp_path):
    rows = [{"image": f"{name}.jpg", "caption": "a rose"} for name in ("rose", "tulip", "rose7b")]
    read = read_captions(write_json(tmp_path / "a.json", rows))
    again = read_captions(write_json(tmp_path / "b.json", rows[:2][::-1]))
    assert read.image_ids[:2].tolist() == again.image_ids[::-1].tolist() and len(set(read.image_ids.tolist())) == 3
    assert [read.written_id(k) for k in range(3)] == ["rose", "tulip", "rose7b"]
    coco = {"images": [{"id": "rose", "file_name": "rose.jpg"}],
            "annotations": [{"image_id": "rose", "caption": "a rose"}]}  # fmt: skip
    file = write_json(tmp_path / "coco.json", coco)
    assert read_captions(file).image_ids[0] == read.image_ids[0]
    assert evaluated_ids(file) == {int(read.image_ids[0])} == set(image_files(file))
    for clash in ([3, 3], ["coco_3", 3], ["3", "3"]):
        rows = [{"image": f"{k}.jpg", "image_id": name, "caption": "x"} for k, name in enumerate(clash)]
        with pytest.raises(ValueError, match=r"image id 3 stands for both 0\.jpg and 1\.jpg"):
            read_captions(write_json(tmp_path / "c.json", rows))


def test_two_words_of_one_number_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_blip2.data.annotations.ids.ID_SPACE", 4)
    assert {image_number(f"word{k}x") for k in range(99)} == {2, 3}
    rows = [{"image": f"word{k}x.jpg", "caption": "x"} for k in range(3)]
    with pytest.raises(ValueError, match=r"image id word\dx stands for both"):
        read_captions(write_json(tmp_path / "c.json", rows))


@pytest.mark.parametrize(
    ("name", "number"),
    [("coco_42", 42), ("COCO_val2014_000000000042", 42), ("img42", 42), ("000042", 42), ("val-0-3", 3)]
    + [(name, name) for name in ("rose", HEX, "9" * 20, "a1b2", "1000268201_693b08cb0e")],
)
def test_last_digits(name, number):
    assert last_digits(name) == number


@pytest.mark.parametrize("name", ["0054913972805123", "9954913972805123", "54e91", "1000268201_693b08cb0e"])
def test_ids_of_openimages_that_look_like_numbers_are_words(tmp_path, name):
    row = {"image_id": name, "image_name": name, "caption_str": "A sign."}
    read = read_captions(write_json(tmp_path / "textcaps.json", top([row])), "val")
    assert read.written_id(0) == name and 0 <= read.image_ids[0] < ID_SPACE and read.files[0] == f"{name}.jpg"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("Train_GCC-training.tsv", "a dog\thttp://x/1.jpg\n", "captions and URLs.*img2dataset.*ConceptualCaptions"),
        ("refs(unc).p", "x", "a pickle .*RefCOCO"),
        ("train-00000.parquet", "x", "Hugging Face's datasets.*metadata.jsonl"),
        ("captions.zip", "x", "packed: unpack it"),
        ("sbu.json", {"image_urls": ["x"], "captions": ["y"]}, "captions and URLs"),
        ("problems.json", {"1": {"question": "?", "choices": ["a"], "answer": 0, "lecture": ""}}, "ScienceQA"),
        ("scienceqa.json", [SCIENCE | {"lecture": "", "hint": "x"}], "ScienceQA's multiple choice.*lmms-eval"),
        ("scienceqa_ids.json", [SCIENCE | {"question_id": 3, "lecture": ""}], "ScienceQA's multiple choice"),
        ("quiz.json", [SCIENCE, SCIENCE | {"answer": 0}], "holds multiple choice.*rows of image, question and answer"),
        ("MultipleChoice_mscoco_val2014_questions.json", V1, "multiple choice.*OpenEnded_mscoco.*same questions"),
        ("dataset_v7w_telling.json", V7W, "Visual7W's multiple choice.*rows of image, question and answer"),
        ("refs.json", [{"ref_id": 1, "ann_id": 2, "image_id": 3, "sentences": []}], "RefCOCO"),
        ("llava.json", [{"id": "1", "image": "1.jpg", "conversations": []}], "LLaVA's conversations"),
        ("region_descriptions.json", [{"id": 1, "regions": []}], "VisualGenome"),
        ("submission.json", [{"image_id": 1, "caption": "a"}], "a submission"),
        ("val_sceneGraphs.json", {"1": {"width": 5, "height": 5, "objects": {}}}, "scene graphs"),
    ],
)
def test_what_is_not_read_is_said_in_one_line(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for read in (read_captions, read_questions, lambda path: read_captions(path, "test")):
        with pytest.raises(ValueError, match=words) as error:
            read(file)
        assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_tables_of_other_things(tmp_path):
    (tmp_path / "mine.csv").write_text("caption,url\na dog,http://x/1.jpg\n")
    with pytest.raises(ValueError, match=r"mine\.csv is not read: it holds a list of captions and URLs"):
        read_captions(tmp_path / "mine.csv")
    with pytest.raises(ValueError, match=r"mine\.csv is not read: questions are read from JSON"):
        read_questions(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    "content", [[VIZWIZ], [LAVIS | {"answer": "a"}], {"1": GQA}, {"questions": [{"question_id": 1}]}, [AOKVQA]]
)
def test_questions_are_no_captions(tmp_path, content):
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"x\.json.*give them as questions"):
            read_captions(write_json(tmp_path / "x.json", content), split)


def test_captions_are_no_questions(tmp_path):
    for content in ({"images": [], "annotations": []}, [{"image": "1.jpg", "caption": "x"}]):
        with pytest.raises(ValueError, match=r"x\.json holds no questions.*as captions"):
            read_questions(write_json(tmp_path / "x.json", content))


def test_textcaps_test_images_have_no_captions(tmp_path):
    rows = [{"image_id": HEX, "image_name": HEX, "image_path": f"test/{HEX}.jpg", "set_name": "test"}]
    with pytest.warns(UserWarning, match="holds no captions"):
        read = read_captions(write_json(tmp_path / "TextCaps_0.1_test.json", top(rows)), "test")
    assert (read.written_id(0), read.files[0], read.of(0), read.written_of(0)) == (HEX, f"{HEX}.jpg", [], [])
    with pytest.raises(ValueError, match=f"image {HEX} has no caption"):
        read_captions(write_json(tmp_path / "TextCaps_0.1_test.json", top(rows)), "val")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "must be an object or a list of them, and is null"),
        (7, "must be an object or a list of them, and is a number, 7"),
        ({}, "holds no questions in a layout that is read: its keys are none"),
        ([{"question": "?", "answer": "a"}], "a layout that is read: its keys are answer, question"),
        ([AOKVQA_ANSWERED | {"direct_answers": "cab, taxi"}], "entry 1: direct_answers must be a list"),
        ([VIZWIZ_ANSWERED] * 2, "question id VizWiz_val_00000007.jpg stands there twice"),
        (
            [LAVIS | {"question_id": k, "image": f"{name}/1.jpg", "answer": "a"} for k, name in enumerate("ab")],
            "image id 1 stands for both a/1.jpg and b/1.jpg",
        ),
    ],
)
def test_faults_of_questions_name_the_file(tmp_path, content, words):
    file = write_json(tmp_path / "q.json", content)
    with pytest.raises(ValueError) as error:
        read_questions(file)
    assert str(error.value).startswith(str(file)) and words in str(error.value)


def test_coco_boxes_and_flags_that_are_none_are_refused(tmp_path):
    images, mark = [{"id": 1, "file_name": "1.jpg"}], {"image_id": 1, "id": 1}
    for more, words in (
        ({"bbox": [1, 2, 3, 4], "category_id": 7}, "a box and no caption.* captions_"),
        ({"caption": "x", "is_rejected": "false"}, "is_rejected must be true or false, and is a text"),
    ):
        file = write_json(tmp_path / "c.json", {"images": images, "annotations": [mark | more]})
        with pytest.raises(ValueError, match=rf"c\.json: entry 1 of annotations: {words}"):
            read_captions(file)


def test_lavis_gold_captions_say_nothing_of_files(tmp_path):
    content = {"annotations": [{"image_id": 391895, "caption": "A man.", "id": 0}], "images": [{"id": 391895}]}
    with pytest.raises(ValueError, match=r"gt\.json: .*no image has a file_name.*give coco_karpathy_test\.json"):
        read_captions(write_json(tmp_path / "coco_karpathy_test_gt.json", content), "test")


def test_readme_and_docs_name_what_is_tested_here():
    said = Path("docs/data.md").read_text() + Path("docs/evaluation.md").read_text()
    for name in ("GQA", "A-OKVQA", "TextVQA", "VizWiz", "TextCaps", "NoCaps", "Flickr30k", "POPE", "metadata.jsonl"):
        assert name in said


@pytest.mark.parametrize(
    "options", [{"A": "red", "B": "blue"}, {"options": ["red", "blue"]}, {"choice_a": 1, "choice_b": 2}]
)
def test_letters_of_options_are_no_answers(tmp_path, options):
    rows = [{"image": f"{number}.jpg", "question": "which ?", "answer": letter} for number, letter in enumerate("BA")]
    with pytest.raises(DataError, match="is multiple choice, and its answers are letters of options: write the text"):
        read_questions(write_json(tmp_path / "choice.json", [row | options for row in rows]))
    rows[0]["answer"] = "blue"  # a text beside options is an answer
    assert len(read_questions(write_json(tmp_path / "open.json", [row | options for row in rows])).files) == 2
    assert len(read_questions(write_json(tmp_path / "plain.json", [row | {"answer": "B"} for row in rows])).files) == 2


@pytest.mark.parametrize(
    "answers",
    [["dog", "dog", "cat"], [{"answer": "dog"}, {"answer": "dog"}, {"answer": "cat"}], "['dog', 'dog', 'cat']"],
)
@pytest.mark.parametrize("one", [{"answer": "dog"}, {"answer": None}, {"multiple_choice_answer": "dog"}])
def test_all_answers_count_where_one_stands_beside_them(tmp_path, answers, one):
    row = {"image": "1.jpg", "question": "what ?", "question_id": 7, "answers": answers} | one
    assert read_questions(write_json(tmp_path / "q.json", [row])).answers_of(0) == ["dog", "dog", "cat"]
