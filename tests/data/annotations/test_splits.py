"""Files that hold several splits: of each row is read what belongs to the split in use, and the rest is told."""

import json

import pytest

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import evaluated_ids, read_captions
from lit_blip2.data.annotations.questions import question_types, read_questions
from tests.data.annotations.test_captions import write_json

SPLITS = ["train", "restval", "val", "validation", "test", "test"]
OF = {"train": [10, 11], "val": [12, 13], "test": [14, 15]}
IDS = range(10, 16)


def captions_file(folder, kind, splits, key="split"):
    """Images 10, 11, ... with a caption each, one of each split, in a layout."""
    rows = [{"image": f"{i}.jpg", "caption": f"cow {i}", "image_id": i, key: s} for i, s in zip(IDS, splits)]
    if kind in ("csv", "tsv"):
        mark = {"csv": ",", "tsv": "\t"}[kind]
        lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
    elif kind == "jsonl":
        lines = [
            json.dumps({"file_name": r["image"], "text": r["caption"], "image_id": r["image_id"], key: r[key]})
            for r in rows
        ]
    elif kind == "coco":
        images = [{"id": r["image_id"], "file_name": r["image"], key: r[key]} for r in rows]
        marks = [{"id": r["image_id"], "image_id": r["image_id"], "caption": r["caption"]} for r in rows]
        return write_json(folder / "coco.json", {"images": images, "annotations": marks})
    elif kind == "textcaps":
        data = [{"image_id": i, "caption_str": f"cow {i}", "set_name": s} for i, s in zip(IDS, splits)]
        return write_json(folder / "textcaps.json", {"data": data})
    else:
        return write_json(folder / "list.json", rows)
    (folder / f"rows.{kind}").write_text("\n".join(lines) + "\n")
    return folder / f"rows.{kind}"


def questions_file(folder, kind, splits):
    """Questions 0, 1, ... about images 10, 11, ...: the paths of their files."""
    rows = [{"question_id": k, "question": f"q {i}", "split": s} for k, (i, s) in enumerate(zip(IDS, splits))]
    if kind == "lavis":
        return [
            write_json(
                folder / "q.json", [row | {"image": f"{10 + row['question_id']}.jpg", "answer": ["a"]} for row in rows]
            )
        ]
    if kind == "jsonl":
        lines = [json.dumps(row | {"image": f"{10 + row['question_id']}.jpg", "answer": "a"}) for row in rows]
        (folder / "q.jsonl").write_text("\n".join(lines))
        return [folder / "q.jsonl"]
    if kind == "aokvqa":
        more = [{"image_id": 10 + row["question_id"], "choices": ["a"], "direct_answers": ["a"]} for row in rows]
        return [write_json(folder / "q.json", [row | each for row, each in zip(rows, more)])]
    if kind == "gqa":
        asked = {
            str(r["question_id"]): {
                "imageId": str(10 + r["question_id"]),
                "question": "q",
                "answer": "a",
                "split": r["split"],
            }
            for r in rows
        }
        return [write_json(folder / "q.json", asked)]
    if kind == "textvqa":
        data = [{"image_id": 10 + r["question_id"], "set_name": r["split"], "answers": ["a"]} | r for r in rows]
        return [write_json(folder / "q.json", {"data": [{k: v for k, v in r.items() if k != "split"} for r in data]})]
    asked = [row | {"image_id": 10 + row["question_id"]} for row in rows]
    marks = [
        {"question_id": row["question_id"], "question_type": row["split"], "answers": [{"answer": "a"}]} for row in rows
    ]
    first = write_json(folder / "q.json", {"questions": asked, "data_subtype": "val2014"})
    return [first, write_json(folder / "a.json", {"annotations": marks})]


@pytest.mark.parametrize("split", OF)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "list", "coco", "textcaps"])
def test_captions_of_the_split_alone_are_read(tmp_path, kind, split):
    path = captions_file(tmp_path, kind, SPLITS)
    with pytest.warns(UserWarning, match=f"4 of 6 rows are left out, not of {split}: "):
        read = read_captions(path, split)
    assert read.image_ids.tolist() == OF[split]


@pytest.mark.parametrize("split", OF)
@pytest.mark.parametrize("kind", ["lavis", "jsonl", "aokvqa", "gqa", "textvqa", "vqa"])
def test_questions_of_the_split_alone_are_read(tmp_path, kind, split):
    files = questions_file(tmp_path, kind, SPLITS)
    with pytest.warns(UserWarning, match=f"4 of 6 rows are left out, not of {split}: "):
        read = read_questions(*files, split=split)
    assert read.image_ids.tolist() == OF[split]
    assert question_types(*files, split=split) >= set(read.types)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    path = captions_file(tmp_path, "list", ["Train ", "dev", "val", "", None, "extra"])
    with pytest.warns(UserWarning) as said:
        assert len(read_captions(path, "train")) == 1
    assert str(said[0].message).endswith(
        "5 of 6 rows are left out, not of train: without a split 2, dev 1, val 1, extra 1"
    )


@pytest.mark.parametrize("split", OF)
@pytest.mark.parametrize(
    "splits", [["train"] * 6, [0, 1, 2, 0, 1, 2], ["easy"] * 3 + ["hard"] * 3, [None] * 3 + ["easy"] * 3]
)
def test_a_file_of_one_split_or_of_none_is_read_whole(tmp_path, recwarn, splits, split):
    assert len(read_captions(captions_file(tmp_path, "list", splits), split)) == 6
    told = [str(each.message) for each in recwarn]
    assert all("name no split" in each for each in told) and len(told) == (
        0 not in map(splits.count, splits) and splits[0] in (0, "easy")
    )


@pytest.mark.parametrize("split", OF)
def test_a_file_whose_held_out_rows_alone_name_their_split_is_refused(tmp_path, split):
    """The others may be of the same split or of another one."""
    path = captions_file(tmp_path, "csv", ["", "", "", "", "test", "test"])
    with pytest.raises(DataError, match=r"some rows name their split and some do not \(without a split 4, test 2\)"):
        read_captions(path, split)


def test_a_split_that_no_row_is_of_is_refused_by_name(tmp_path):
    path = captions_file(tmp_path, "csv", ["train", "train", "val", "val", "val", "testdev"])
    with pytest.raises(DataError, match=r"no row of split 'test'.*val 3, train 2, testdev 1"):
        read_captions(path, "test")
    path = captions_file(tmp_path, "list", ["train2014", "val2014"])
    with pytest.raises(DataError, match=r"no row of split 'val'.*write train, val or test"):
        read_captions(path, "val")


@pytest.mark.parametrize(
    "key", ["Split", " split", "set", "subset", "Partition", "fold", "phase", "data_split", "dataset", "which"]
)
def test_the_column_may_be_written_otherwise(tmp_path, key):
    with pytest.warns(UserWarning, match="left out"):
        assert len(read_captions(captions_file(tmp_path, "csv", SPLITS, key), "val")) == 2


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("fold", [0, 1, 2, 0, 1, 2]),
        ("is_train", [True, True, True, False, False, False]),
        ("is_test", [0, 0, 0, 1, 1, 1]),
        ("test", ["no", "no", "no", "yes", "yes", "yes"]),
        ("subset", ["valley", "desert", "valley", "desert", "sea", "sea"]),
        ("set", ["train2014", "val2014"] * 3),
    ],
)
def test_other_columns_that_name_no_split_are_told_and_not_used(tmp_path, key, values):
    for split in OF:
        with pytest.warns(UserWarning, match=f"its values of {key} name no split, all rows are read"):
            assert len(read_captions(captions_file(tmp_path, "list", values, key), split)) == 6


def test_a_split_counts_before_a_column_of_another_name(tmp_path, recwarn):
    rows = [{"image": f"{i}.jpg", "caption": "cow", "split": "train", "set": s} for i, s in enumerate(["val", "test"])]
    assert len(read_captions(write_json(tmp_path / "c.json", rows), "test")) == 2 and not recwarn.list
    rows = [{"image": f"{i}.jpg", "caption": "cow", "split": i, "set": s} for i, s in enumerate(["val", "test"])]
    with pytest.warns(UserWarning, match="1 of 2 rows are left out, not of test: val 1"):
        assert len(read_captions(write_json(tmp_path / "c.json", rows), "test")) == 1


@pytest.mark.parametrize("split", OF)
def test_annotations_may_name_the_split_in_the_place_of_what_they_are_about(tmp_path, split):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in IDS]
    marks = [{"id": i, "image_id": i, "caption": f"cow {i}", "split": s} for i, s in zip(IDS, SPLITS)]
    coco = write_json(tmp_path / "coco.json", {"images": images, "annotations": marks})
    with pytest.warns(UserWarning, match=f"4 of 6 rows are left out, not of {split}: "):
        assert read_captions(coco, split).image_ids.tolist() == OF[split]
    asked = [{"question_id": i, "image_id": i, "question": f"q {i}"} for i in IDS]
    first = write_json(tmp_path / "q.json", {"questions": asked, "data_subtype": "val2014"})
    answers = [
        {"question_id": i, "answers": [{"answer": "a"}], "question_type": "q", "split": s} for i, s in zip(IDS, SPLITS)
    ]
    second = write_json(tmp_path / "a.json", {"annotations": answers})
    with pytest.warns(UserWarning, match=f"4 of 6 rows are left out, not of {split}: "):
        assert read_questions(first, second, split=split).image_ids.tolist() == OF[split]


def test_two_columns_of_splits_are_refused(tmp_path):
    (tmp_path / "c.csv").write_text("image,caption,split,split\n1.jpg,cow,train,val\n2.jpg,cow,val,train\n")
    with pytest.raises(DataError, match="two columns are named 'split'"):
        read_captions(tmp_path / "c.csv", "train")


def test_images_to_evaluate_on_are_those_of_val_and_test(tmp_path):
    with pytest.warns(UserWarning, match="left out, not of val or test"):
        assert evaluated_ids(captions_file(tmp_path, "list", SPLITS)) == {12, 13, 14, 15}
    assert evaluated_ids(captions_file(tmp_path, "csv", ["train"] * 6)) == set(IDS)
