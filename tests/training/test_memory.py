"""What is computed again in the backward pass is what the device's memory asks for."""

import types

import jax
import jax.numpy as jnp
import pytest

from sapl_jax.clip.blocks import LEVELS, Recompute
from sapl_jax.clip.config import BUILT_IN
from sapl_jax.errors import UserError
from sapl_jax.training.memory import choose_recompute, fitting_level

VISION = BUILT_IN["vit-large-patch14-336"].vision


def device(platform, limit):
    stats = {"bytes_limit": limit} if limit else None
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def chosen(remat, at, batch=12, dtype="bfloat16"):
    return choose_recompute(remat, VISION, (batch, 518, 518, 3), jnp.dtype(dtype), at)


@pytest.mark.parametrize(
    "gigabytes, batch, dtype, level",
    [
        (60.0, 12, "bfloat16", "none"),
        (60.0, 96, "bfloat16", "mlp"),
        (60.0, 400, "bfloat16", "blocks"),
        (60.0, 4000, "bfloat16", "blocks"),
        (15.75, 12, "bfloat16", "none"),
        (15.75, 12, "float32", "blocks"),
        (8.0, 12, "bfloat16", "mlp"),
    ],
)
def test_auto_recomputes_no_more_than_memory_asks_for(gigabytes, batch, dtype, level):
    assert chosen("auto", device("tpu", gigabytes * 1e9), batch, dtype) == Recompute(level)


def test_auto_keeps_everything_where_memory_is_unknown():
    assert chosen("auto", jax.devices()[0], batch=4000) == Recompute("none", unroll=False)


def test_a_gpu_unrolls():
    assert chosen("mlp", device("gpu", 1e9)) == Recompute("mlp", unroll=True)
    assert chosen("mlp", device("tpu", 1e9)) == Recompute("mlp", unroll=False)


@pytest.mark.parametrize("old, level", [(True, "blocks"), (False, "none"), ("True", "blocks")])
def test_the_switch_it_used_to_be_still_works(old, level):
    assert chosen(old, device("tpu", None)).level == level


def test_a_wrong_name_is_the_users_mistake():
    with pytest.raises(UserError, match="'all'.*'auto'.*'mlp'"):
        chosen("all", device("tpu", None))


def test_levels_need_less_and_less():
    shape, dtype = (12, 518, 518, 3), jnp.dtype("bfloat16")
    found = [fitting_level(VISION, shape, dtype, 1e9 * limit) for limit in range(2, 20)]
    assert [*dict.fromkeys(reversed(found))] == list(LEVELS)
