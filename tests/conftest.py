"""Settings of the whole suite: two CPU devices, so that the data-parallel path always runs."""

import os
import tempfile
from pathlib import Path

# Small programs run once: compiling them quickly matters more than running them quickly.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# Tests that build the same program compile it once.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="sapl-test-xla-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # No test may need a network.

TINY_CLIP = Path(__file__).parent / "fixtures" / "hf_clip_tiny"


@pytest.fixture
def tiny_clip_folder() -> Path:
    """A real Hugging Face CLIP of a few kilobytes: 4 vision blocks, patches of 7 pixels."""
    return TINY_CLIP


@pytest.fixture
def tiny_config(tiny_clip_folder):
    """The shipped configuration shrunk to the tiny CLIP: the same code path, seconds on a CPU."""
    from configs.sapl import get_config

    config = get_config()
    config.clip.pretrained = str(tiny_clip_folder)
    config.image.size = 28
    config.model.taps = (2, 4)
    config.model.prompt_length = 3
    config.model.attention_heads = 4
    config.model.hecl.top_k = 3
    config.model.hecl.queue_length = 8
    config.model.hecl.feature_dim = 8
    config.train.batch_size = 4
    config.train.num_steps = 6
    config.train.learning_rate = 1e-3
    config.train.log_every = 1
    config.train.eval_every = 3
    config.train.checkpoint_every = 3
    return config
