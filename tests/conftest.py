"""Settings of the whole suite: two CPU devices, so that the data-parallel path always runs."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Small programs run once: compiling them quickly matters more than running them quickly.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

from tests.tiny import TINY_CLIP, tiny_configuration

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# Tests that build the same program compile it once.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="sapl-test-xla-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # No test may need a network.


@pytest.fixture(scope="module", autouse=True)
def free_programs() -> Iterator[None]:
    """Every compiled program holds maps of memory, of which Linux gives a process 65,530.

    A worker that compiles more dies of a segmentation fault.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def tiny_clip_folder() -> Path:
    """A real Hugging Face CLIP of a few kilobytes: 4 vision blocks, patches of 7 pixels."""
    return TINY_CLIP


@pytest.fixture
def tiny_config():
    """The shipped configuration shrunk to the tiny CLIP: the same code path, seconds on a CPU."""
    return tiny_configuration()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """The work directory of a finished tiny run; not to be changed."""
    from tests.trained_run import make_run

    return make_run(tmp_path_factory.mktemp("trained") / "run", tiny_configuration())
