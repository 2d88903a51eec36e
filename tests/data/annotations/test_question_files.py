"""Files of questions and answers in the layouts they are published in."""

import json
from pathlib import Path

import pytest
import yaml

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.questions import question_types, read_questions
from lit_blip2.data.coco import COCO
from tests.data.annotations.test_captions import write_json

TEST_DEV = sorted(file for file in Path("experiments").rglob("*.yaml") if "test-dev2015" in file.read_text())


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


@pytest.mark.parametrize("experiment", TEST_DEV, ids=lambda file: file.stem)
def test_test_dev_asks_about_the_test_images(tmp_path, experiment):
    """VQAv2's test-dev2015 is a part of the questions about COCO's test2015."""
    given = yaml.safe_load(experiment.read_text())["data"]["init_args"]
    questions = [{"image_id": 262144, "question": "Is the ball flying?", "question_id": 262144000}]
    asked = {"data_type": "mscoco", "data_subtype": "test-dev2015", "task_type": "Open-Ended", "questions": questions}
    for file in (given["vqa_test"]["questions"], "test2015/COCO_test2015_000000262144.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        write_json(tmp_path / file, asked)
    data = COCO(str(tmp_path), images=given["images"], vqa_test=given["vqa_test"])
    with pytest.warns(UserWarning, match="comes without answers"):
        data.setup("test")
    assert data.tables["test"]["vqa"].files[0] == "test2015/COCO_test2015_000000262144.jpg"
    assert len(TEST_DEV) == 4


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


def test_visual_genome_s_first_version_calls_its_images_id(tmp_path):
    qas = [{"qa_id": 9, "image_id": 4, "question": "Where is the cat?", "answer": "On the mat.", "a_objects": []}]
    images = [{"id": k, "url": f"https://x/VG_100K_2/{k}.jpg", "coco_id": None} for k in (3, 4)]
    paths = write_json(tmp_path / "qa.json", [{"id": 4, "qas": qas}]), write_json(tmp_path / "images.json", images)
    assert list(read_questions(paths[0], images=paths[1]).files) == ["VG_100K_2/4.jpg"]
    with pytest.raises(ValueError, match=r"images\.json holds no questions: it holds Visual Genome's list of images"):
        read_questions(paths[1])


def test_visual_genome_in_lavis_layout_is_read_alike_with_ids_and_without(tmp_path):
    row = {"image": "VG_100K/7.jpg", "question": "What is it?", "answer": "A kerb."}
    for more in ({}, {"question_id": 5}, {"question_id": 5, "image": "images/7.jpg", "dataset": "vg"}):
        assert read_questions(write_json(tmp_path / "vg_qa.json", [row | more])).answers_of(0) == ["A kerb"]
    vqa = row | {
        "image": "val2014/COCO_val2014_000000000007.jpg",
        "question_id": 5,
        "answer": ["5 p.m."],
        "dataset": "vqa",
    }
    assert read_questions(write_json(tmp_path / "vqa_train.json", [vqa])).answers_of(0) == ["5 p.m."]


@pytest.mark.parametrize("answers", [[], [{"answer": ""}, {"answer": " "}]])
def test_annotations_without_an_answer_are_those_of_a_server(tmp_path, answers):
    coco = {"question_id": 3, "image_id": 1, "question": "Who?"}
    mark = {"question_id": 3, "image_id": 1, "question_type": "who", "answers": answers}
    marks = write_json(tmp_path / "a.json", {"annotations": [mark]})
    path = write_json(tmp_path / "q.json", {"data_subtype": "val2014", "questions": [coco]})
    with pytest.raises(ValueError, match=r"a\.json holds no answers"):
        read_questions(path, marks)
    with pytest.warns(UserWarning, match=r"q\.json comes without answers"):
        assert read_questions(path, marks, split="test").answers_of(0) == []


@pytest.mark.filterwarnings("ignore:.*comes without answers")
@pytest.mark.parametrize("text", ["", " \n"])
def test_a_question_without_words_is_refused_in_every_layout(tmp_path, text):
    coco = {"question_id": 3, "image_id": 1, "question": text}
    named = {"image": "COCO_val2014_000000000001.jpg", "question": text}
    qas = [{"qa_id": 3, "image_id": 4, "question": text, "answer": "Yes."}]
    for content in (
        {"data_subtype": "val2014", "questions": [coco]},
        {"data": [{"image_id": "0a", "question_id": 3, "question": text, "answers": ["a"]}]},
        {"3": {"imageId": "7", "question": text, "answer": "no"}},
        [{"id": 4, "qas": qas}],
        [named | {"question_id": 3, "answer": "no"}],
        [{"image": named["image"], "question_id": 3, "text": text, "label": "no"}],
        [{"image": "v_3.jpg", "question": text, "answers": [{"answer": "no"}]}],
        [{"split": "val", "image_id": 1, "question_id": 3, "question": text, "choices": [], "direct_answers": ["a"]}],
    ):
        path = write_json(tmp_path / "q.json", content)
        with pytest.raises(
            ValueError, match=r"q\.json: 1 questions are empty, the first is question (3|v_3\.jpg): leave"
        ):
            read_questions(path, split="test")
    mark = {"question_id": 3, "image_id": 1, "question_type": "is", "answers": [{"answer": "yes"}]}
    marks = write_json(tmp_path / "a.json", {"annotations": [mark]})
    path = write_json(tmp_path / "q.json", {"data_subtype": "val2014", "questions": [coco]})
    with pytest.raises(ValueError, match="1 questions are empty"):
        read_questions(path, marks)


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


def test_a_label_of_pope_is_yes_or_no(tmp_path):
    row = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard?", "label": "Yes"}
    write_json(tmp_path / "q.json", [row, row | {"question_id": 2, "label": " NO\n"}])
    table = read_questions(tmp_path / "q.json")
    assert [table.answers_of(0), table.answers_of(1)] == [["yes"], ["no"]]
    write_json(tmp_path / "q.json", [row, row | {"question_id": 2, "label": "maybe"}])
    with pytest.raises(ValueError, match=r"q\.json: entry 2: question 2: label must be yes or no, and is 'maybe'"):
        read_questions(tmp_path / "q.json")


def test_questions_without_answers_say_what_is_missing(tmp_path):
    path = write_json(tmp_path / "q.json", {"questions": []})
    with pytest.raises(ValueError, match="need their annotations as well"):
        read_questions(path)


def test_a_servers_questions_need_no_answers_to_test_on(tmp_path):
    asked = [{"question_id": 9, "image_id": 4, "question": "Why?"}, {"question_id": 2, "image_id": 4, "question": "A?"}]
    path = write_json(tmp_path / "q.json", {"questions": asked, "data_subtype": "test2015"})
    with pytest.warns(UserWarning, match=r"q\.json comes without answers"):
        read = read_questions(path, split="test")
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


EMPTY_ANSWERS = {
    "lavis": lambda texts: [
        {"question_id": k, "question": "q", "image": f"{k}.jpg", "answer": text} for k, text in enumerate(texts)
    ],
    "gqa": lambda texts: {str(k): {"imageId": str(k), "question": "q", "answer": text} for k, text in enumerate(texts)},
    "textvqa": lambda texts: {
        "data": [{"image_id": k, "question_id": k, "question": "q", "answers": [t, t]} for k, t in enumerate(texts)]
    },
}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("layout", EMPTY_ANSWERS)
def test_an_empty_answer_is_none_to_score(tmp_path, layout, split):
    path = write_json(tmp_path / "q.json", EMPTY_ANSWERS[layout](["a tree", "", " "]))
    with pytest.raises(
        DataError, match=r"q\.json: 2 questions have no answer but empty ones, .* question '?1'?: leave"
    ):
        read_questions(path, split=split)
    assert read_questions(path).answered().answers_of(0)[0] == "a tree"  # training leaves the others out


def test_annotators_who_all_answer_nothing_are_refused(tmp_path):
    first, second = vqa_files(tmp_path, [(1, 7), (2, 7)], [(1, 7, 10), (2, 7, 10)], data_subtype="val2014")
    marks = json.loads(second.read_text())["annotations"]
    marks[0]["answers"] = [{"answer": ""}] * 9 + [{"answer": "cup"}]  # one of them did
    write_json(second, {"annotations": marks})
    assert len(read_questions(first, second, split="val")) == 2
    for empty in ("", None):
        marks[0]["answers"] = [{"answer": empty}] * 10
        write_json(second, {"annotations": marks})
        with pytest.raises(DataError, match=r"answers\.json: 1 questions have no answer .* question 1: leave"):
            read_questions(first, second, split="val")


def test_visual_genome_images_are_not_those_of_captions_with_other_ids(tmp_path):
    """COCO's captions of the same split know some of the ids, for other images; captions of its own know all."""
    asked = [{"id": i, "qas": [{"qa_id": i, "image_id": i, "question": "what ?", "answer": "cow."}]} for i in (1, 2)]
    path = write_json(tmp_path / "question_answers.json", asked)
    assert list(read_questions(path, files={2: "COCO_val2014_000000000002.jpg"}).files) == ["1.jpg", "2.jpg"]
    own = {1: "VG_100K/1.jpg", 2: "VG_100K_2/2.jpg"}
    assert list(read_questions(path, files=own | {3: "3.jpg"}).files) == list(own.values())


def test_visual_genome_images_are_not_guessed_beside_a_list(tmp_path):
    """Without a list of images they are ID.jpg; with one, an image that it lacks has no name."""
    asked = [{"qa_id": k, "image_id": k, "question": "What is it?", "answer": "A cow."} for k in (1, 2)]
    path = write_json(tmp_path / "qa.json", [{"id": 1, "qas": asked}])
    listed = [{"image_id": 1, "url": "https://x/VG_100K_2/1.jpg"}]
    images = write_json(tmp_path / "image_data.json", listed)
    assert list(read_questions(path).files) == ["1.jpg", "2.jpg"]
    with pytest.raises(DataError, match=r"qa\.json: entry 2 of qas of entry 1: image 2 is not in the list of images"):
        read_questions(path, images=images, files={2: "val2014/COCO_val2014_000000000002.jpg"})
    write_json(images, [*listed, {"image_id": 2, "url": "https://x/VG_100K/2.jpg"}])
    assert list(read_questions(path, images=images).files) == ["VG_100K_2/1.jpg", "VG_100K/2.jpg"]


def test_aokvqa_images_may_be_named_by_their_files_alone(tmp_path):
    row = {"split": "val", "question_id": "x1", "question": "q", "choices": ["a"], "direct_answers": ["a"]}
    read = read_questions(write_json(tmp_path / "q.json", [row | {"image": "val2017/000000461751.jpg"}]))
    assert read.image_ids.tolist() == [461751] and read.files[0] == "val2017/000000461751.jpg"
    named = row | {"image": "val2017/000000461751.jpg", "image_id": 3}
    assert read_questions(write_json(tmp_path / "q.json", [named])).image_ids.tolist() == [3]
    with pytest.raises(DataError, match="image_id is not there"):
        read_questions(write_json(tmp_path / "q.json", [row]))


def test_vqa_cp_is_a_list_and_each_row_says_its_split(tmp_path):
    asked = {"image_id": 262145, "question": "What is it?", "question_id": 262145002, "coco_split": "train2014"}
    said = {key: asked[key] for key in ("image_id", "question_id", "coco_split")}
    said |= {"question_type": "what is", "answers": [{"answer": "dog", "answer_id": 1}], "answer_type": "other"}
    other = {"image_id": 42, "question_id": 42001, "coco_split": "val2014"}
    files = (
        write_json(tmp_path / "vqacp_v2_test_questions.json", [asked, asked | other]),
        write_json(tmp_path / "vqacp_v2_test_annotations.json", [said, said | other]),
    )
    read = read_questions(*files, split="test")
    assert list(read.files) == ["val2014/COCO_val2014_000000000042.jpg", "train2014/COCO_train2014_000000262145.jpg"]
    assert read.answers_of(1) == ["dog"] and question_types(*files) == {"what is"}


def test_abstract_scenes_are_no_photos_of_coco(tmp_path):
    given = {"data_type": "abstract_v002", "data_subtype": "val2015"}
    files = vqa_files(tmp_path, [(1, 42)], [(1, 42, 10)], **given)
    with pytest.raises(DataError, match=r"no file name is known for image 42: .* has no data_subtype of COCO's photos"):
        read_questions(*files)
    assert read_questions(*files, files={42: "abstract_v002_val2015_000000000042.png"}).files[0].startswith("abstract")


def test_answers_may_be_a_printed_list(tmp_path):
    """A-OKVQA's direct_answers in Hugging Face's copy, and what pandas writes of LAVIS' rows."""
    aokvqa = {
        "split": "val",
        "question_id": "x1",
        "question": "q",
        "choices": ["a"],
        "image": "val2017/000000000003.jpg",
    }
    for row in (
        aokvqa | {"direct_answers": "['a cab', 'cab']"},
        {"question_id": 7, "question": "q", "image": "x_3.jpg", "answer": '["a cab", "cab"]'},
    ):
        read = read_questions(write_json(tmp_path / "q.json", [row]))
        assert read.answers_of(0) == ["a cab", "cab"]


def test_images_may_be_those_of_karpathy(tmp_path):
    image = {"filepath": "val2014", "sentences": [{"raw": "a cow"}], "split": "restval"}
    listed = [image | {"cocoid": 42, "filename": "COCO_val2014_000000000042.jpg"}]
    images = write_json(tmp_path / "dataset_coco.json", {"images": listed})
    paths = vqa_files(tmp_path, [(1, 42)], [(1, 42, 10)])
    assert read_questions(*paths, images=images).files[0] == "val2014/COCO_val2014_000000000042.jpg"
    write_json(images, {"images": [{"id": 42}], "annotations": []})
    with pytest.raises(DataError, match=r"no image has a file_name.*or dataset_coco\.json"):
        read_questions(*paths, images=images)
