"""The training step can be made for hardware that is not here: traced and lowered, not run."""

import re

import jax
import pytest

from benchmarks.case import Case
from benchmarks.lowering import lower_step
from benchmarks.train_step import config_of
from configs import demo, photographs, sapl
from sapl_jax.clip import attention
from sapl_jax.clip.blocks import Recompute
from sapl_jax.training import step


@pytest.fixture
def cudnn(monkeypatch):
    """A stand-in for the library's version, which is all that lowering asks of cuDNN."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    attention.cudnn_serves.cache_clear()
    yield
    attention.cudnn_serves.cache_clear()


def paper():
    config = sapl.get_config()
    config.clip.pretrained = "random:vit-large-patch14-336"
    return config


def small_pictures():
    """224 pixels: an even grid, so an odd number of tokens (257)."""
    return config_of(Case(model="vit-large-patch14", size=224, batch=2))


CONFIGURATIONS = {
    "paper": paper,
    "demo": demo.get_config,
    "photographs": photographs.get_config,
    "224 pixels": small_pictures,
}


def text_of(name, platform, dtype="bfloat16"):
    config = CONFIGURATIONS[name]()
    config.train.batch_size, config.train.dtype = 2, dtype
    return lower_step(config, jax.devices()[:1], platform).as_text()


def fused_calls(text):
    """Fused attention, forward (recomputed ones included) and backward."""
    calls = re.findall(r"@__cudnn\$fmha\w*", text)
    return len(calls) - sum("Backward" in c for c in calls), sum("Backward" in c for c in calls)


# The vision tower's four segments of blocks; short texts, 145 tokens and a narrow reach go without.
@pytest.mark.parametrize(
    "name, calls", [("paper", 4), ("demo", 0), ("photographs", 0), ("224 pixels", 4)]
)
def test_step_for_cuda_uses_cudnn_where_it_serves(cudnn, name, calls):
    forward, backward = fused_calls(text_of(name, "cuda"))
    assert backward == calls and forward >= calls


@pytest.mark.parametrize("level, forward", [("none", 24), ("mlp", 24), ("blocks", 48)])
def test_unrolled_for_a_gpu_what_cudnn_keeps_is_not_computed_again(
    cudnn, monkeypatch, level, forward
):
    monkeypatch.setattr(step, "choose_recompute", lambda *_: Recompute(level, unroll=True))
    assert fused_calls(text_of("paper", "cuda")) == (forward, 24)


@pytest.mark.parametrize("platform", ["tpu", "rocm", "cpu"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_step_for_other_hardware_has_no_cudnn(cudnn, name, platform):
    assert fused_calls(text_of(name, platform)) == (0, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_step_for_cuda_without_the_library_or_in_single_precision(dtype):
    attention.cudnn_serves.cache_clear()
    assert fused_calls(text_of("224 pixels", "cuda", dtype)) == (0, 0)
