"""What to type once a command has ended: lines that the command line itself takes."""

from pathlib import Path

import pytest

from lit_blip2.config import Experiment, read
from lit_blip2.what_next import after_fit, after_test

STAGE1 = Path("experiments/mini_stage1.yaml")
RUN = Path("runs/mini_stage1/version_3")


def test_stage_1_leads_to_its_test_and_to_the_experiments_that_start_from_it():
    assert after_fit(RUN, [STAGE1], read(STAGE1), changed=False) == [
        f"python -m lit_blip2 test --config {STAGE1} --ckpt_path {RUN}",
        *(
            f"python -m lit_blip2 fit --config experiments/{name}.yaml --model.init_from={RUN}"
            for name in ("mini_opt", "mini_retrieval", "mini_t5")
        ),
    ]


def test_what_was_set_on_the_command_line_is_tested_with_the_runs_own_config():
    tested = after_fit(RUN, [STAGE1], read(STAGE1), changed=True)[0]
    assert tested == f"python -m lit_blip2 test --config {RUN}/config.yaml --ckpt_path {RUN}"


def test_a_network_of_another_size_leads_to_no_experiment_that_could_not_start_from_it():
    experiment = read(STAGE1)
    experiment.net["qformer"]["num_queries"] = 8
    assert len(after_fit(RUN, [STAGE1], experiment, changed=True)) == 1


def test_what_starts_from_a_run_gets_its_data_and_no_line_where_sizes_may_differ():
    file, run = Path("experiments/own_data_stage1.yaml"), Path("runs/own_data_stage1/version_0")
    experiment = read(file)
    line = f"python -m lit_blip2 fit --config experiments/own_data_opt.yaml --model.init_from={run}"
    assert after_fit(run, [file], experiment, changed=False) == [line]
    experiment.data["root"] = "my photos"
    assert after_fit(run, [file], experiment, changed=True) == [f"{line} '--data.root=my photos'"]


def test_a_second_file_of_a_run_leads_to_its_partner():
    """The sizes for a CPU go on with those of stage 2; where a file has no partner, nothing is proposed."""
    run, small = Path("runs/own_data_stage1/version_0"), Path("experiments/own_data_cpu")
    files = [Path("experiments/own_data_stage1.yaml"), small / "stage1.yaml"]
    experiment = read(files[0])
    for place, value in read(files[1]).net.items():
        experiment.net[place] = experiment.net[place] | value if isinstance(value, dict) else value
    line = f"python -m lit_blip2 fit --config experiments/own_data_opt.yaml --config {small}/opt.yaml"
    assert after_fit(run, files, experiment, changed=True) == [f"{line} --model.init_from={run}"]
    alone = [files[0], Path("experiments/mini_stage1.yaml")]
    assert after_fit(run, alone, experiment, changed=True) == []


def test_stage_2_leads_to_its_test_and_a_question():
    file, run = Path("experiments/mini_opt.yaml"), Path("runs/mini_opt/version_0")
    lines = after_fit(run, [file], read(file), changed=False)
    assert lines[0].endswith(f"test --config {file} --ckpt_path {run}")
    assert lines[1:-1] == [
        f"python -m lit_blip2 fit --config experiments/mini_{task}.yaml --model.init_from={run}"
        for task in ("caption", "vqa")
    ]
    assert after_test(run, read(file)) == lines[-1:]
    assert lines[-1] == f'python -m lit_blip2 ask --checkpoint {run} IMAGE "what is in the picture ?"'


def test_a_run_with_classes_of_the_users_own_is_asked_with_leave_to_import_them():
    """No shipped experiment can start from it, as none has such a bridge."""
    file, run = Path("experiments/mini_opt.yaml"), Path("runs/mini_opt/version_0")
    experiment = read(file)
    experiment.net["bridge"] = {"class_path": "thin.Thin"}
    tested, *lines = after_fit(run, [file], experiment, changed=True)
    assert tested.startswith("python -m lit_blip2 test ")
    assert lines == [f'python -m lit_blip2 ask --checkpoint {run} --allow thin IMAGE "what is in the picture ?"']


@pytest.mark.parametrize("settings", [{}, {"data": {"init_args": {"test": None, "vqa_test": None}}}])
def test_without_test_sets_and_a_language_model_there_is_nothing_to_type(settings, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {init_from: 3}\n")
    (tmp_path / "no_yaml.yaml").write_text("[1")
    assert after_fit(RUN, [tmp_path / "mine.yaml"], Experiment(settings, "mine"), changed=False) == []
