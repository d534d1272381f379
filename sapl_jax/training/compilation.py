"""The persistent compilation cache: what was compiled once is read the next time."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Turns the cache on, in JAX_COMPILATION_CACHE_DIR or by default ~/.cache/sapl_jax/xla.

    Small programs are kept as well: a start compiles dozens of them besides the step.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sapl_jax" / "xla"))
    if os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS") is None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
