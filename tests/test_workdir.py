"""The work directory: what a continued run may change, and configurations of before a field."""

import json

import pytest

from sapl_jax.errors import UserError
from sapl_jax.workdir import config_of, open_workdir
from tests.tiny import tiny_configuration


def test_fields_that_older_runs_lack_have_the_value_of_then() -> None:
    config = tiny_configuration()
    config.model.heat_map.colours = 0.3
    stored = json.loads(config.to_json())
    assert config_of(stored).model.heat_map.to_dict() == config.model.heat_map.to_dict()
    del stored["model"]["heat_map"]["colours"]
    found = config_of(stored).model.heat_map
    assert found.colours == 0 and found.sigma == config.model.heat_map.sigma


def test_a_run_keeps_the_tiles_that_it_may_be_calibrated_with(tmp_path) -> None:
    config = tiny_configuration()
    with open_workdir(tmp_path, config):
        (tmp_path / "checkpoints" / "last" / "3").mkdir(parents=True)
    config.train.num_steps = 9
    with open_workdir(tmp_path, config):
        pass
    config.model.heat_map.tile = 64
    with (
        pytest.raises(UserError, match="heat_map.tile: 0 there, 64 now"),
        open_workdir(tmp_path, config),
    ):
        pass


def test_what_a_run_left_that_was_killed_in_its_first_save_is_no_checkpoint(tmp_path) -> None:
    config = tiny_configuration()
    with open_workdir(tmp_path, config):
        (tmp_path / "checkpoints" / "last" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    config.model.heat_map.tile = 64
    with open_workdir(tmp_path, config):
        pass
