"""`compare`: verdicts by hand, and what cannot be compared."""

import json

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (({"tokenizer": "spaces"}, {"tokenizer": "ptb"}), "tokenizer: spaces and ptb"),
        (({"lemmatise": True}, {"answers": "lavis", "lemmatise": True}), "answers: official and lavis"),
    ],
)
def test_tests_that_were_scored_by_other_rules_are_not_compared(rules, said, tmp_path, capsys):
    for name, scoring in zip("ab", rules):
        (tmp_path / name).mkdir()
        ids = np.arange(3)
        write_items(tmp_path / name / FILE, {"caption/cider": Items(np.ones(3), ids, ids)})
        (tmp_path / name / "decoding.json").write_text(json.dumps({"scoring": scoring}))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert f"scored by other rules, {said}" in capsys.readouterr().err
