"""The work directory: what a continued run may change, and configurations of before a field."""

import json

import pytest

from sapl_jax.errors import UserError
from sapl_jax.workdir import config_of, open_workdir, remember_config
from tests.tiny import tiny_configuration


def test_a_stored_configuration_is_the_one_it_was() -> None:
    config = tiny_configuration()
    assert config_of(json.loads(config.to_json())).to_dict() == config.to_dict()


def test_a_run_continues_for_longer_or_for_its_best_checkpoint_but_with_its_own_tiles(
    tmp_path,
) -> None:
    config = tiny_configuration()
    with open_workdir(tmp_path, config):
        remember_config(tmp_path, config)
        (tmp_path / "checkpoints" / "last" / "3").mkdir(parents=True)
    config.train.num_steps, config.train.keep = 9, "best"
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
        remember_config(tmp_path, config)
        (tmp_path / "checkpoints" / "last" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    config.model.heat_map.tile = 64
    with open_workdir(tmp_path, config):
        pass
