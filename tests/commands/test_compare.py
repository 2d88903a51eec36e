"""`compare`: verdicts by hand, and what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_blip2.commands.compare import main
from lit_blip2.evaluation.items import FILE, Items, write_items


def run(folder, **figures):
    """A run whose test has these figures, item k about image k."""
    folder.mkdir(parents=True)
    numbers = {name: np.arange(len(values)) for name, values in figures.items()}
    write_items(folder / FILE, {n: Items(np.array(v, dtype=float), numbers[n], numbers[n]) for n, v in figures.items()})
    return str(folder.parent)


def test_better_worse_and_not_shown(tmp_path, capsys):
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(float)
    other = np.where(rng.random(400) < 0.2, 1 - base, base)
    first = run(tmp_path / "a" / "v0", up=base * 0, down=base, same=base, alone=base)
    second = run(tmp_path / "b" / "v0", up=base, down=base * 0.5, same=other)
    assert main([first, second]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "B is higher" in lines["up"] and "B is lower" in lines["down"] and "no difference shown" in lines["same"]
    assert f"{base.mean():.4f}" in lines["up"] and "alone" not in lines


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    first, second = run(tmp_path / "a" / "v0", x=[1, 2]), run(tmp_path / "b" / "v0", x=[1, 2, 3])
    assert main([first, second]) == 2
    assert "x: 1 items are in one run only, the first with id 2" in capsys.readouterr().err
    assert main([first, str(tmp_path / "nowhere")]) == 2
    assert "no items.npz in" in capsys.readouterr().err
    assert main([first, run(tmp_path / "c" / "v0", y=[1])]) == 2
    assert "no metric is in both: x and y" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["only one"]])
def test_two_runs_are_needed(arguments):
    with pytest.raises(SystemExit):
        main(arguments)


def both_by(rules, folder) -> list[str]:
    """The folders of two tests by these rules, as their files hold them."""
    for name, each in zip("ab", rules):
        run(folder / name / "v0", **{"caption/cider": [1, 0, 1], "vqa/accuracy": [0, 1, 1]})
        (folder / name / "v0/decoding.json").write_text(json.dumps(each))
    return [str(folder / "a"), str(folder / "b")]


def test_other_ways_to_look_for_answers_are_compared_and_said(tmp_path, capsys):
    rules = ({"vqa_num_beams": 5, "rerank": 8, "prompt": ""}, {"vqa_num_beams": 3, "rerank": 2, "prompt": "a photo of"})
    assert main(both_by(rules, tmp_path / "new")) == 0
    said = "A and B were made by other rules: prompt: '' and 'a photo of'; vqa_num_beams: 5 and 3\n"
    assert capsys.readouterr().out.endswith(said)
    older = {
        "answers": {"prompt": "{}", "num_beams": 5},
        "captions": {"prompt": ""},
        "scoring": {"answers": "official"},
    }
    assert main(both_by((older, rules[1] | {"question": "{}?"}), tmp_path / "older")) == 0
    out = capsys.readouterr().out
    assert "prompt: '' and 'a photo of'; question: '{}' and '{}?'; vqa_num_beams: 5 and 3" in out
    assert main(both_by((rules[0], rules[0]), tmp_path / "same")) == 0 and "rules" not in capsys.readouterr().out


def test_tests_of_other_steps_are_told(tmp_path, capsys):
    runs = both_by(({}, {}), tmp_path)
    for folder, step in zip(runs, (4, 6)):
        (Path(folder) / "v0/metrics.json").write_text(json.dumps({"evaluated/test_step": step}))
    assert main(runs) == 0 and capsys.readouterr().out.endswith("\nA was tested at step 4, B at step 6\n")
    assert main([runs[0], runs[0]]) == 0 and "tested at" not in capsys.readouterr().out


def test_a_test_before_its_runs_last_step_is_told(tmp_path, capsys):
    """A: the run has come further since. B: it stands where it was tested, and was to make more."""
    first, second = both_by(({}, {}), tmp_path)
    for folder, tested, step in ((first, 4, 6), (second, 5, 5)):
        run = Path(folder) / "v0"
        (run / "metrics.json").write_text(json.dumps({"evaluated/test_step": tested}))
        torch.save({"state_dict": {}, "global_step": step, "planned_steps": 6}, run / "last.ckpt")
    early = "B was tested at step 5 of the 6 that its run was to make\n"
    assert main([first, second]) == 0
    again = "A was tested at step 4, and its run stands at step 6 now: test it again\n"
    assert capsys.readouterr().out.endswith(f"\nA was tested at step 4, B at step 5\n{again}{early}")
    assert main([second, second]) == 0 and capsys.readouterr().out.endswith(f"{early.replace('B', 'A')}{early}")
    (Path(first) / "v0/metrics.json").write_text("{}")
    assert main([first, second]) == 0
    older = "A's test is an older one, which does not tell the step that it is of\n"
    assert capsys.readouterr().out.endswith(f"{older}{early}")


def test_a_test_of_random_weights_is_named(tmp_path, capsys):
    assert main(both_by(({}, {"random": ["language model opt"]}), tmp_path)) == 0
    assert capsys.readouterr().out.endswith("\nB is of RANDOM weights, for trials: language model opt\n")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (({"caption_tokenizer": "spaces"}, {"caption_tokenizer": "ptb"}), "caption_tokenizer: 'spaces' and 'ptb'"),
        (({"lemmatise": True}, {"scoring": "lavis", "lemmatise": True}), "scoring: 'official' and 'lavis'"),
        (({"scoring": {"tokenizer": "ptb"}}, {"scoring": {"answers": "lavis"}}), "scoring: 'official' and 'lavis'"),
    ],
)
def test_tests_that_were_scored_by_other_rules_are_not_compared(rules, said, tmp_path, capsys):
    assert main(both_by(rules, tmp_path)) == 2
    assert f"scored by other rules, {said}" in capsys.readouterr().err
