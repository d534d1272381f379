"""The demo's ablation: rows on the demo's configuration, mean and spread over seeds."""

import json
import sys
from pathlib import Path

import pytest

from configs import ablations, demo
from data_pipelines.generator.examples import make_example
from sapl_jax.ablate import commands
from sapl_jax.demo import ablation
from sapl_jax.demo.ablation import build_tables, collect, parse_arguments, spread
from sapl_jax.errors import UserError


def test_demo_rows_change_the_demo_s_configuration_and_nothing_else() -> None:
    base = demo.get_config()
    base.update_from_flattened_dict(ablations.SMALL)
    row = ablations.get_config("demo/clip_lora")
    assert row.model.prompts == "fixed" and not row.model.hecl.enabled
    with row.unlocked():
        row.model.prompts, row.model.hecl.enabled = base.model.prompts, base.model.hecl.enabled
    assert row.to_dict() == base.to_dict()
    for wrong in ("demo/none", "paper/sapl", "/sapl"):
        with pytest.raises(ValueError, match="no ablation"):
            ablations.get_config(wrong)


def test_the_training_command_names_the_demo_row(tmp_path) -> None:
    train, _ = commands("ecpl", tmp_path, ["x:folder=y"], "sapl", [], base="demo/")
    assert train[train.index("--config") + 1].endswith("ablations.py:demo/ecpl")


def test_mean_and_spread_come_from_the_finished_seeds_only(tmp_path) -> None:
    for seed, value in ((0, 0.5), (1, 0.9), (2, 0.7)):
        folder = tmp_path / f"seed{seed}" / "sapl"
        (folder / "evaluation").mkdir(parents=True)
        results = {"datasets": {"held-out": {"i_auc": value, "p_f1": value / 2, "p_auc": value}}}
        (folder / "evaluation" / "results.json").write_text(json.dumps(results))
        rows = {} if seed == 1 else {"sapl": {}}
        (folder.parent / "ablations.json").write_text(json.dumps({"rows": rows}))
    found = collect(tmp_path, ["sapl", "ecpl"], 3)
    assert found["sapl"]["i_auc"] == [0.5, None, 0.7] and found["ecpl"]["i_auc"] == [None] * 3
    assert spread([0.5, None, 0.7]) == ".600 ± .141" and spread([None]) == spread([]) == "-"
    (table,) = (s.parts[0] for s in build_tables(found) if s.heading == "Modules")
    assert table.rows[-1] == ["ECPL and HECL (SAPL)", "2", ".600 ± .141", ".300 ± .071",
                              ".600 ± .141", ".919", ".360"]  # fmt: skip


def test_a_difference_is_found_only_beyond_its_spread_over_seeds() -> None:
    def row(values: list[float]) -> dict[str, list[float]]:
        return {"i_auc": values, "p_f1": [v / 10 for v in values], "p_auc": values[:1]}

    rows = {"clip_lora": row([0.5, 0.6]), "ecpl": row([0.6, 0.72]), "hecl": row([0.7, 0.5])}
    for values, missing in ((rows["clip_lora"], 0.1), (rows["ecpl"], None), (rows["hecl"], None)):
        for measure in ("i_auc", "p_f1"):
            values[measure].insert(1, missing)  # A seed that one row lacks is no difference.
    (table,) = (s.parts[0] for s in build_tables(rows) if s.heading.startswith("Differences"))
    assert table.rows == [
        ["ECPL - CLIP with LoRA", "I-AUC", ".110 ± .014", ".040", "found"],
        ["ECPL - CLIP with LoRA", "P-F1", ".011 ± .001", ".107", "found"],
        ["HECL - CLIP with LoRA", "I-AUC", ".050 ± .212", ".037", "not found"],
        ["HECL - CLIP with LoRA", "P-F1", ".005 ± .021", ".154", "not found"],
    ]


def test_mistyped_flags_are_refused() -> None:
    for wrong in (["--sed", "3"], ["--config.seed", "1"], ["--seeds", "0"], ["--segments", "x"]):
        with pytest.raises(UserError):
            parse_arguments(wrong)


def test_the_help_names_the_world_of_either_kind_of_picture(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: seam; of --photographs interior, all kinds" in shown


def data_made(monkeypatch: pytest.MonkeyPatch, output: Path, asked: list[str]) -> list[dict]:
    """The marks of the training and the test folder that the command makes, sizes checked."""

    def no_training(rows, *_, **__) -> None:
        raise InterruptedError(rows)

    counts = ["--train-images", "8", "--test-images", "4", "--row", "hecl"]
    monkeypatch.setattr(sys, "argv", ["ablation", "--output", str(output), *asked, *counts])
    monkeypatch.setattr(ablation, "run_rows", no_training)
    with pytest.raises(InterruptedError):
        ablation.main()
    folders = [output / "data" / part for part in ("train", "test")]
    assert [len([*folder.glob("[AT][up]/*.jpg")]) for folder in folders] == [8, 4]
    return [json.loads((folder / "generator.json").read_text()) for folder in folders]


def test_pictures_are_of_the_world_and_the_size_that_were_asked_for(tmp_path, monkeypatch) -> None:
    asked = ["--world", "copy-move", "--config.image.size=96"]
    for made in data_made(monkeypatch, tmp_path, asked):
        assert (made["world"], made["size"]) == ("copy-move", 96)


def test_photographs_are_parted_between_training_and_test(tmp_path, monkeypatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for n in range(40):
        (own / f"picture{n}.jpg").write_bytes(make_example(3, 2 * n, 96).jpeg)
    asked = ["--photographs", str(own), "--world", "copy-move"]
    made = data_made(monkeypatch, tmp_path / "study", asked)
    assert [each["split"] for each in made] == ["train", "test"]
    assert all(each["world"] == "copy-move" for each in made)
    assert made[0]["photographs"] + made[1]["photographs"] <= 40
