"""What is computed again in the backward pass is what memory asks for; free memory goes back."""

import platform as platforms
import resource
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sapl_jax.clip.blocks import LEVELS, Recompute
from sapl_jax.clip.config import BUILT_IN
from sapl_jax.training.memory import choose_recompute, fitting_level, give_back_memory

VISION = BUILT_IN["vit-large-patch14-336"].vision


def device(platform, limit):
    stats = {"bytes_limit": limit} if limit else None
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats, process_index=0)


def of_another_process():
    def refuse():
        raise jax.errors.JaxRuntimeError("MemoryStats is only supported for addressable devices")

    return types.SimpleNamespace(platform="tpu", memory_stats=refuse, process_index=1)


def chosen(remat, *at, batch=12, dtype="bfloat16"):
    shape = (batch, 518, 518, 3)
    tower = types.SimpleNamespace(config=VISION, dtype=jnp.dtype(dtype))
    return choose_recompute(remat, tower, shape, list(at))


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
    at = device("tpu", gigabytes * 1e9)
    assert chosen("auto", at, batch=batch, dtype=dtype) == Recompute(level)


def test_a_process_asks_a_device_of_its_own():
    assert chosen("auto", of_another_process(), device("tpu", 8e9)) == Recompute("mlp")


def test_auto_keeps_all_but_the_widest_where_memory_is_unknown():
    assert chosen("auto", jax.devices()[0], batch=4000) == Recompute("mlp", unroll=False)


def test_a_gpu_unrolls():
    assert chosen("mlp", device("gpu", 1e9)) == Recompute("mlp", unroll=True)
    assert chosen("mlp", device("tpu", 1e9)) == Recompute("mlp", unroll=False)


def test_levels_need_less_and_less():
    shape, dtype = (12, 518, 518, 3), jnp.dtype("bfloat16")
    found = [fitting_level(VISION, shape, dtype, 1e9 * limit) for limit in range(2, 20)]
    assert [*dict.fromkeys(reversed(found))] == list(LEVELS)


@pytest.mark.skipif(platforms.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    # Small blocks, every thousandth kept: malloc cannot shrink its heap from the end.
    blocks = [bytearray(4096) for _ in range(50_000)]
    kept = blocks[::1000]
    del blocks
    before = resident()
    give_back_memory()
    assert before - resident() > 100e6
    assert len(kept) == 50
