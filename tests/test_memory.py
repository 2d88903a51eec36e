"""The memory plan: shares by hand, and the sum of what is measured against a step of the whole network."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, GPTNeoConfig, Qwen2Config

from lit_blip2.commands.params import main
from lit_blip2.config import read
from lit_blip2.memory import allocated, batch, build_loaded, gathered, plan, share
from lit_blip2.network import sketch


def test_allocated_by_hand():
    """Two tensors of 4 kB at once, one of them returned."""

    def work():
        first = torch.empty(1000)
        return first.new_empty(1000)

    assert allocated(work) == (4000, 8000)


def test_allocated_is_blind_to_releases_of_older_tensors():
    older = []
    assert allocated(lambda: older.append(torch.empty(1000))) == (4000, 4000)
    assert allocated(older.clear) == (0, 0)


def test_views_and_changes_in_place_allocate_nothing():
    older = torch.zeros(10, 10)
    assert allocated(lambda: older[2:].T.add_(1)) == (0, 0)


@pytest.mark.parametrize(
    ("strategy", "devices", "expected"),
    [
        ("ddp", 1, (500, 400, 800)),
        ("ddp", 4, (500, 800, 800)),  # with its buckets
        ("deepspeed_stage_1", 4, (500, 400, 200)),
        ("deepspeed_stage_2", 4, (500, 100, 200)),
        ("fsdp", 4, (125, 100, 200)),
    ],
)
def test_a_rank_s_share_of_100_trained_weights_and_100_frozen_bytes(strategy, devices, expected):
    assert share(100, 100, devices, strategy)[:3] == expected


@pytest.mark.run
@pytest.mark.parametrize("name", ["mini_stage1", "mini_opt", "mini_t5", "mini_joint", "mini_retrieval"])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_kept_is_what_a_real_step_keeps(name, bf16):
    """Of texts of unequal lengths, as batches have them: where all are equal, transformers leaves masks out."""
    experiment = read(Path(f"experiments/{name}.yaml"))
    found = plan(sketch(experiment), 64, rows=7, words=9, devices=1, strategy="ddp", bf16=bf16)
    net = real(sketch(experiment))
    given = batch(net, rows=7, words=9)
    if language := getattr(getattr(net, "stage2", net), "language", None):
        target = language.join([[1, 1]] * 6 + [[1]], [[1] * 9] * 6 + [[1] * 8])
        given["target" if "target" in given else "text"] = target
    shape, frozen = net.vision.output_shape(64), net.vision.frozen

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features_BND = torch.zeros(7, *shape) if frozen else net.vision(torch.zeros(7, 3, 64, 64))
            return features_BND, net(features_BND, **given)

    kept = {part: need.kept for part, need in found.items() if part.startswith("kept: ")}
    assert sum(kept.values()) == pytest.approx(allocated(step)[0], rel=0.03)
    assert not frozen or kept["kept: vision"] == 7 * shape[0] * shape[1] * 4


def real(net: nn.Module) -> nn.Module:
    """The whole network on the CPU; all weights and buffers are zero."""
    build_loaded(net)
    for module in net.modules():
        module.to_empty(device="cpu", recurse=False)
    with torch.no_grad():
        for value in (*net.parameters(), *net.buffers()):
            value.zero_()
    return net


@pytest.mark.run
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_trained_encoder_keeps_what_all_its_blocks_keep(checkpointing, bf16):
    """Under autocast half of most things; with checkpointing each block's input, and little else."""
    experiment = read(Path("experiments/mini_retrieval.yaml"))
    experiment.vision["checkpointing"] = checkpointing
    found = plan(sketch(experiment), 64, rows=7, words=9, devices=1, strategy="ddp", bf16=bf16)["kept: vision"].kept
    vision = real(sketch(experiment)).vision
    forward = torch.autocast("cpu", torch.bfloat16, enabled=bf16)(vision.forward)
    whole, _ = allocated(lambda: forward(torch.zeros(7, 3, 64, 64)))
    assert found == pytest.approx(whole, rel=1e-3)


def test_low_rank_changes_keep_what_they_read():
    """In each of 4 layers, of 24 queries and 10 tokens: 128 numbers that both layers read, and 8 of each change."""
    experiment = read(Path("experiments/mini_opt.yaml"))
    net = experiment.net
    kept = []
    for lora in (None, {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}):
        net["language"]["lora"] = lora
        needs = plan(sketch(experiment), 64, rows=7, words=9, devices=1, strategy="ddp", bf16=False)
        kept.append(needs["kept: language"].kept)
    assert kept[1] - kept[0] == pytest.approx(4 * 7 * 34 * (128 + 2 * 8) * 4, rel=1e-3)


ROTARY = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda depth: Qwen2Config(vocab_size=40, num_hidden_layers=depth, **ROTARY),
        lambda depth: Gemma2Config(vocab_size=40, num_hidden_layers=depth, head_dim=8, **ROTARY),
        lambda depth: GPTNeoConfig(
            vocab_size=40, num_layers=depth, attention_types=[[["global", "local"], depth // 2]], hidden_size=16,
            num_heads=2,
        ),
    ],
)  # fmt: skip
def test_families_that_list_their_blocks_are_planned(make, tmp_path):
    """Four blocks keep twice what two keep."""
    kept = []
    for depth in (2, 4):
        make(depth).save_pretrained(tmp_path)
        experiment = read(Path("experiments/mini_opt.yaml"))
        experiment.net["language"] = {"name": str(tmp_path), "dtype": "float32"}
        needs = plan(sketch(experiment), 64, rows=7, words=9, devices=1, strategy="ddp", bf16=False)
        kept.append(needs["kept: language"].kept)
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.02) and kept[0] > 0


def test_a_precision_that_is_not_planned_is_said(tmp_path, capsys):
    text = Path("experiments/mini_opt.yaml").read_text()
    (tmp_path / "half.yaml").write_text(text.replace("\ntrainer:\n", "\ntrainer:\n  precision: bf16-true\n", 1))
    assert main(["--memory", "--config", str(tmp_path / "half.yaml")]) == 2
    assert "precision 'bf16-true' is not planned: 32-true, 32, bf16-mixed, 16-mixed" in capsys.readouterr().err


def test_it_is_printed_and_what_cannot_be_is_said(capsys):
    main(["--memory", "--config", "experiments/mini_opt.yaml", "--devices", "2"])
    assert "GB on each of 2, ddp, 32 rows" in " ".join(capsys.readouterr().out.split())
    assert main(["--memory", "--config", "experiments/mini_opt.yaml", "--strategy", "dp"]) == 2
    assert "strategy 'dp': one of ddp, deepspeed_stage_1, deepspeed_stage_2, fsdp" in capsys.readouterr().err


def test_options_of_the_plan_are_not_ignored_without_it(capsys):
    with pytest.raises(SystemExit):
        main(["--config", "experiments/mini_opt.yaml", "--devices", "2"])
    assert "say how a step runs: add --memory" in capsys.readouterr().err


def test_an_experiment_without_batches_is_said(tmp_path, capsys):
    text = Path("experiments/mini_opt.yaml").read_text()
    (tmp_path / "bare.yaml").write_text(text.partition("\ntrainer:")[0])
    assert main(["--memory", "--config", str(tmp_path / "bare.yaml")]) == 2
    assert "bare.yaml: no data with batch_size, or no trainer" in capsys.readouterr().err


def test_several_experiments_make_a_table_with_the_papers_figures(capsys):
    main(["--config", "experiments/vitg_opt27.yaml", "experiments/mini_opt.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| `vitg_opt27` | 107,133,696 | 107M | 3,637,491,328 | 3,744,625,024 |" and len(lines) == 4


@pytest.mark.parametrize(
    ("name", "devices", "expected"), [("vitg_stage1", 16, 2), ("vitg_stage1", 1, 0), ("vitg_opt27", 16, 0)]
)
def test_itm_gathers_the_features_of_all_images(name, devices, expected):
    """105 images on each of 16 ranks, 257 tokens of 1408 numbers of 2 bytes; once apart and once together."""
    net = sketch(read(Path(f"experiments/{name}.yaml")))
    assert gathered(net, 224, rows=105, devices=devices) == expected * 16 * 105 * 257 * 1408 * 2
