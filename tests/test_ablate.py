"""The ablation study runs every row once, continues after a stop, and tabulates what is done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import ablations
from configs.sapl import get_config as paper
from sapl_jax import ablate
from sapl_jax.errors import UserError
from sapl_jax.files import write_json

DATASETS = ["casia_v1=/data/c1"]
FLAGS = ["--config.data.root=/data/c2"]


class Launcher:
    """Stands for the two commands: training always works, evaluation writes a results.json."""

    def __init__(self, statuses: dict[str, int] | None = None) -> None:
        self.trained: list[str] = []
        self.statuses = statuses or {}

    def __call__(self, command: list[str]) -> int:
        if "sapl_jax.train" in command:
            row = command[command.index("--config") + 1].rpartition(":")[2]
            self.trained.append(row)
            return self.statuses.pop(row, 0)
        measures = {"i_auc": 0.9, "p_f1": 0.3}
        output = Path(command[command.index("--output") + 1])
        one = measures | {"intervals": {"i_auc": [0.88, 0.92], "p_f1": [0.25, 0.35]}}
        write_json(output / "results.json", {"mean": measures, "datasets": {"casia_v1": one}})
        return 0


def _run(output: Path, launcher: Launcher, rows: list[str], flags: list[str] = FLAGS) -> list[str]:
    return ablate.run_rows(rows, output, DATASETS, "sapl", flags, launcher)


@pytest.mark.parametrize("row", ablations.ROWS)
def test_every_row_is_the_papers_configuration_with_only_its_changes(row: str) -> None:
    config = ablations.get_config(row).to_dict()
    expected = paper().to_dict()
    for field, value in ablations.ROWS[row].changes.items():
        *parents, name = field.split(".")
        place = expected["model"]
        for parent in parents:
            place = place[parent]
        place[name] = value
    assert config == expected
    assert ablations.get_config(row).is_locked


def test_groups_cover_all_rows_and_no_two_rows_are_the_same() -> None:
    assert {row for rows in ablations.GROUPS.values() for row in rows} == set(ablations.ROWS)
    assert len(ablations.GROUPS["grid"]) == 20
    configs = [ablations.get_config(row).to_json() for row in ablations.ROWS]
    assert len(set(configs)) == len(configs)


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no ablation 'x'"):
        ablations.get_config("x")


def test_rows_shared_by_groups_run_once() -> None:
    rows = ablate.chosen_rows(["modules", "prompts"], None)
    assert len(rows) == len(set(rows)) == 9
    assert ablate.chosen_rows(["grid"], ["coop"]) == ["coop"]


def test_a_stopped_study_continues_where_it_was(tmp_path) -> None:
    rows = ["clip_lora", "coop", "ecpl"]
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, Launcher({"coop": 130}), rows)
    again = Launcher()
    assert _run(tmp_path, again, rows) == []
    assert again.trained == ["coop", "ecpl"]
    third = Launcher()
    _run(tmp_path, third, rows)
    assert third.trained == []


def test_other_training_flags_are_another_study(tmp_path) -> None:
    _run(tmp_path, Launcher(), ["coop"])
    again = Launcher()
    _run(tmp_path, again, ["coop"], [*FLAGS, "--config.train.num_steps=9"])
    assert again.trained == ["coop"]
    _run(tmp_path, again, ["ecpl"])
    written = json.loads((tmp_path / "ablations.json").read_text())["rows"]
    assert list(written) == ["ecpl"]  # Of this study alone.


def test_a_training_refused_for_other_flags_leaves_what_was_finished(tmp_path) -> None:
    _run(tmp_path, Launcher(), ["coop"])
    other = [*FLAGS, "--config.seed=1"]
    assert _run(tmp_path, Launcher({"coop": 2}), ["coop"], other) == ["coop"]
    again = Launcher()
    assert _run(tmp_path, again, ["coop"]) == [] and again.trained == []
    assert list(json.loads((tmp_path / "ablations.json").read_text())["rows"]) == ["coop"]


def test_an_evaluation_that_fails_leaves_no_row_finished(tmp_path) -> None:
    _run(tmp_path, Launcher(), ["coop"])

    def failing(command: list[str]) -> int:
        return 0 if "sapl_jax.train" in command else 2

    other = [*FLAGS, "--config.train.num_steps=9"]
    assert ablate.run_rows(["coop"], tmp_path, DATASETS, "sapl", other, failing) == ["coop"]
    again = Launcher()
    assert _run(tmp_path, again, ["coop"]) == [] and again.trained == ["coop"]


def test_a_failed_row_does_not_stop_the_others_and_is_tried_again(tmp_path) -> None:
    rows = ["coop", "ecpl"]
    assert _run(tmp_path, Launcher({"coop": 2}), rows) == ["coop"]
    written = json.loads((tmp_path / "ablations.json").read_text())["rows"]
    assert list(written) == ["ecpl"] and written["ecpl"]["published"]["p_f1"] == 0.305
    text = (tmp_path / "ablations.md").read_text()
    ours = r".900 / .300 | .900 / .300 \[.880, .920\] / \[.250, .350\] |"
    assert f"| ECPL | .911 / .305 | {ours}" in text
    assert "| CoOp | .878 / .178 | - | - |" in text
    again = Launcher()
    assert _run(tmp_path, again, rows) == [] and again.trained == ["coop"]


def test_ctrl_c_leaves_a_training_the_time_to_save(tmp_path) -> None:
    saves = (
        "import signal, sys, time\n"
        "def stop(*_): time.sleep(1.5); open('saved', 'w').close(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop); open('ready', 'w').close(); time.sleep(60)\n"
    )
    study = "from sapl_jax.ablate import run_command; "
    study += f"print(run_command([{sys.executable!r}, '-c', {saves!r}]))"
    with subprocess.Popen(
        [sys.executable, "-c", study], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(ablate.__file__).parents[1])},
    ) as parent:  # fmt: skip
        while not (tmp_path / "ready").exists():
            assert parent.poll() is None
            time.sleep(0.1)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.communicate(timeout=60)[0] == b"130\n"
    assert (tmp_path / "saved").exists()


def test_flags_of_training_pass_through_and_others_are_refused() -> None:
    flags = ["--output", "o", "--dataset", "a=b", "--config.seed=1"]
    arguments, rest = ablate.parse_arguments(flags)
    assert rest == ["--config.seed=1"]
    train, evaluate = ablate.commands("coop", Path("o/coop"), arguments.dataset, "sapl", rest)
    assert train[-1] == "--config.seed=1" and train[4].endswith("ablations.py:coop")
    assert evaluate[evaluate.index("--dataset") + 1] == "a=b"
    for wrong in ("--confg.seed=1", "--config.seed"):
        with pytest.raises(UserError, match="--conf"):
            ablate.parse_arguments([*flags, wrong])


def test_flags_of_what_rows_vary_are_refused_as_the_tables_would_not_be_true() -> None:
    grid = ablate.chosen_rows(["grid"], None)
    ablate.check_flags(grid, ["--config.seed=5", "--config.model.attention_reach=1"])
    with pytest.raises(UserError, match="queue_length: trainings of this study differ in it"):
        ablate.check_flags(grid, ["--config.model.hecl.queue_length=256"])
    ablate.check_flags(["coop"], ["--config.model.hecl.queue_length=256"])
    # The demo's trainings of a row differ by their seeds alone.
    with pytest.raises(UserError, match="seed: trainings of this study differ in it"):
        ablate.check_flags(["coop"], ["--config.seed=5"], base="demo/")
    with pytest.raises(UserError, match="no field 'nope'"):
        ablate.check_flags(["coop"], ["--config.model.nope=1"], base="demo/")


def test_a_training_set_that_is_gone_is_told_before_any_training_and_finished_rows_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    output, data = tmp_path / "out", f"t={tmp_path}/test"
    flags = [f"--config.data.root={tmp_path}/gone"]

    def study(*rows: str) -> int:
        arguments = ["--output", str(output), "--dataset", data, "--row", *rows, *flags]
        monkeypatch.setattr("sys.argv", ["ablate", *arguments])
        return ablate.main()

    with pytest.raises(UserError, match="gone"):
        study("coop")
    assert not output.exists()
    assert ablate.run_rows(["coop"], output, [data], ablate.DEFAULT, flags, Launcher()) == []
    assert study("coop") == 0 and "| CoOp |" in capsys.readouterr().out
    with pytest.raises(UserError, match="gone"):
        study("coop", "ecpl")
