"""The work directory: what a continued run may change, and configurations of before a field."""

import json

import pytest

from sapl_jax.errors import UserError
from sapl_jax.workdir import config_of, open_workdir, read_config, remember_config
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


def test_a_data_root_that_is_not_there_leaves_the_one_of_the_run(tmp_path) -> None:
    config, (root, moved) = tiny_configuration(), (tmp_path / "set", tmp_path / "moved")
    root.mkdir(), moved.mkdir()
    # Another that is there counts, and so does none: the run goes on from its records alone.
    for given, stored in ((root, root), (tmp_path / "sett", root), (moved, moved), ("", "")):
        config.data.root, config.train.num_steps = str(given), config.train.num_steps + 1
        remember_config(tmp_path, config)
        found = read_config(tmp_path)
        assert found.data.root == str(stored) and found.train.num_steps == config.train.num_steps
