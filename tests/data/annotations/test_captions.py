"""Files of captions in the layouts they are published in, and what is wrong with one."""

import json

import numpy as np
import pytest

from lit_blip2.data.annotations.captions import clean_caption, read_captions


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def table(captions):
    """What a Captions holds, in plain Python."""
    ids = captions.image_ids.tolist()
    return {i: (captions.files[k], captions.of(k)) for k, i in enumerate(ids)}


def coco(*rows, ids=(1, 2)):
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in ids],
        "annotations": [{"id": k, "image_id": i, "caption": text} for k, (i, text) in enumerate(rows)],
    }


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
        (coco((1, "one"), (2, "two"), (5, "five")), "entry 3 of annotations: it belongs to image 5"),
        (coco((1, "one"), ids=(1, 1)), "image id 1 is listed twice"),
        (coco(ids=()), "no images of split 'train'"),
        ({"pictures": []}, r"its keys are \['pictures'\]"),
    ],
)
def test_faults_name_the_file_and_the_id(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captions(write_json(tmp_path / "faulty.json", content))
    assert "faulty.json" in str(error.value)


def test_a_file_with_two_ids_is_not_evaluated_on_and_told_in_training(tmp_path):
    coco_like = coco((1, "one"), (2, "two"))
    coco_like["images"][1]["file_name"] = "./1.jpg"
    sentences = {"filename": "1.jpg", "sentences": [{"raw": "A."}]}
    for split in ("train", "test"):
        for content in (coco_like, {"images": [{"imgid": k, "split": split, **sentences} for k in (1, 2)]}):
            path, words = write_json(tmp_path / "x.json", content), r"x\.json: 1 images .*1\.jpg under 1 and 2"
            if split == "train":
                with pytest.warns(UserWarning, match=words):
                    assert len(read_captions(path)) == 2
            else:
                with pytest.raises(ValueError, match=words):
                    read_captions(path, split)
    rows = [{"image": f"{mark}1.jpg", "caption": "a", "image_id": k} for k, mark in ((1, ""), (2, "x/../"))]
    with pytest.raises(ValueError, match=r"entry 2: 1\.jpg has image id 2, and 1 in a row before"):
        read_captions(write_json(tmp_path / "x.json", rows))


def test_a_file_that_is_spelt_in_two_ways_is_one_image(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption\n./a/1.png,One\na/1.png,Two\na/b/../1.png,Three\n1.png,Other\n")
    assert table(read_captions(tmp_path / "x.csv")) == {
        0: ("./a/1.png", ["one", "two", "three"]),
        1: ("1.png", ["other"]),
    }


def test_a_row_without_a_caption_is_counted_beside_others(tmp_path):
    rows = [{"image": "1.jpg", "caption": ["one"]}, {"image": "1.jpg", "caption": []}]
    textcaps = {"data": [{"image_id": "a", "caption_str": text} for text in ("one", None)]}
    for content in (rows, textcaps):
        with pytest.warns(UserWarning, match="1 empty captions left out"):
            assert read_captions(write_json(tmp_path / "x.json", content)).of(0) == ["one"]


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
        (
            "x.csv",
            b"image,text\na.jpg,A dog\n",
            r"x\.csv: line 2: needs image and caption, and has image, text.*columns=.{image: image, caption: text}",
        ),
        ("x.jsonl", b'{"image": "a.jpg"}\n', r"x\.jsonl: line 1: needs image and caption"),
        ("x.jsonl", b'{"image": \n', r"x\.jsonl: line 1 is not JSON"),
        ("x.csv", b"image,caption\na.jpg,caf\xe9\n", r"x\.csv cannot be read: 'utf-8'"),
        ("x.csv", b"image,caption,image_id\na.jpg,A,1\nb.jpg,B,1\n", r"image id 1 stands for both a\.jpg and b\.jpg"),
        ("x.csv", b"image,caption\na.jpg,.\n", r"x\.csv: image 0 has no caption, or only empty ones"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_captions(tmp_path / name)


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
        ([{"image": "9.jpg", "image_id": int("9" * 15), "caption": "a"}], "image id 9+ does not lie in"),
        ([{"image": "a.jpg", "image_id": -3, "caption": "a"}], "image id -3 does not lie in"),
        ([{"url": "x", "caption": "a"}], "a list of captions and URLs"),
        ([{"picture": "x", "caption": "a"}], "entry 1: needs image and caption"),
    ],
)
def test_entries_that_cannot_be_read_name_the_file(tmp_path, content, words):
    file = write_json(tmp_path / "x.json", content)
    with pytest.raises(ValueError, match=f"x.json: .*{words}"):
        read_captions(file)
