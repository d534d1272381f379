"""Times our training step: python -m benchmarks.train_step --help. Imports no TensorFlow."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.case import (
    ARCHITECTURES,
    Case,
    argument_parser,
    case_of,
    cpu_name,
    measure,
    peak_rss,
    random_batch,
)
from benchmarks.program import matmul_flops
from configs.sapl import get_config
from sapl_jax import devices as dev
from sapl_jax.checkpoints import flatten
from sapl_jax.models.sapl import open_sapl
from sapl_jax.training.memory import give_back_memory
from sapl_jax.training.state import init_state, make_optimizer, split_model
from sapl_jax.training.step import make_train_step, rate_schedule


def config_of(case: Case) -> ConfigDict:
    """The shipped configuration with a case's shapes; HECL's weight is constant."""
    config = get_config()
    config.clip.pretrained = f"random:{case.model}" if case.model in ARCHITECTURES else case.model
    config.clip.lora_rank, config.clip.lora_alpha = case.lora_rank, case.lora_alpha
    config.image.size = case.size
    config.model.taps = case.taps
    config.model.prompt_length = case.prompt_length
    config.model.attention_heads = case.attention_heads
    hecl = config.model.hecl
    hecl.top_k, hecl.queue_length = case.top_k, case.queue_length
    hecl.temperature, hecl.weight = case.temperature, case.hecl_weight
    config.train.batch_size = case.batch
    config.train.learning_rate, config.train.weight_decay = case.learning_rate, case.weight_decay
    config.train.remat, config.train.dtype = case.remat, case.dtype
    return config


class OurStep:
    """Our step, compiled for one device."""

    def __init__(self, case: Case, warm_up: bool = True, overlap: bool = False):
        """`overlap`: weights are read while the step is compiled, as in training."""
        self.case = case
        self.devices = jax.devices()[:1]
        self.platform = self.devices[0].platform
        self.chip = cpu_name() if self.platform == "cpu" else self.devices[0].device_kind
        config = config_of(case)
        model, read = open_sapl(config, jnp.dtype(case.dtype))
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            if not overlap:
                reading.result()
            self.patch = model.clip.config.vision.patch_size
            params, frozen = split_model(model)
            tx = make_optimizer(config.train)
            mapped = make_train_step(
                frozen.graph,
                tx,
                config,
                rate_schedule(config.train, 1000),
                lambda step: jnp.float32(case.hecl_weight),
                self.devices,
            )
            start = functools.partial(
                init_state, tx=tx, config=config, feature_dim=model.feature_dim
            )
            started = time.perf_counter()
            lowered = mapped.lower(jax.eval_shape(start, params), frozen.params, self.batch(0))
            self.compiled: Any = lowered.compile()
            self.compile_s = time.perf_counter() - started
            reading.result()
        params, frozen = split_model(model)
        del model
        self.state = dev.replicate(start(params), self.devices)
        self.frozen = dev.replicate(frozen.params, self.devices)
        if warm_up:
            self.step(self.batch(0))
            give_back_memory()  # As the training loop does.

    def set_params(self, arrays: dict[str, np.ndarray]) -> None:
        """Replaces the trainable parameters by arrays under their flat names."""
        names = list(flatten(self.state.params))
        params = jax.tree.unflatten(
            jax.tree.structure(self.state.params), [arrays[name] for name in names]
        )
        self.state = self.state._replace(params=dev.replicate(params, self.devices))

    def batch(self, index: int) -> dict[str, jax.Array]:
        """A batch on the device."""
        batches = [random_batch(self.case, self.patch, index)]
        return jax.block_until_ready(next(dev.shard_batches(batches, self.devices)))

    def step(self, batch: dict[str, jax.Array]) -> dict[str, float]:
        """One step, its metrics read."""
        self.state, metrics = self.compiled(self.state, self.frozen, batch)
        return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def peak_memory(self) -> int:
        """On an accelerator what JAX allocated there, else the process's resident memory."""
        if self.platform == "cpu":
            return peak_rss()
        return self.devices[0].memory_stats()["peak_bytes_in_use"]

    def facts(self) -> dict[str, Any]:
        """What the compiler says about the program."""
        memory = self.compiled.memory_analysis()
        cost = self.compiled.cost_analysis()
        return {
            # The compiler counts a loop's body once; `program_flops` counts every turn of it.
            "cost_analysis_flops": cost.get("flops"),
            "program_flops": matmul_flops(self.compiled.as_text()),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "versions": {"jax": jax.__version__},
        }


def main() -> None:
    """Flags to one JSON line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed, after a warm-up")
    args = parser.parse_args()
    measure("train_step", args, case_of(args), OurStep)


if __name__ == "__main__":
    main()
