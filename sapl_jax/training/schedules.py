"""How the learning rate and HECL's weight move with the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sapl_jax.errors import UserError

Schedule = Callable[[jax.Array], jax.Array]


def learning_rate(train: ConfigDict, num_steps: int) -> Schedule:
    """Learning rate of a step: linear warm-up, then constant or cosine to zero.

    Raises:
        UserError: for an unknown `train.schedule` or a warm-up longer than the run.
    """
    if not 0 <= train.warmup_steps < max(num_steps, 1):
        raise UserError(
            f"config.train.warmup_steps is {train.warmup_steps}; expected at least 0 and fewer "
            f"than the {num_steps} steps of the run."
        )
    if train.schedule == "constant":
        rest = optax.constant_schedule(train.learning_rate)
    elif train.schedule == "cosine":
        rest = optax.cosine_decay_schedule(train.learning_rate, num_steps - train.warmup_steps)
    else:
        raise UserError(
            f"config.train.schedule is {train.schedule!r}; expected 'constant' or 'cosine'."
        )
    if not train.warmup_steps:
        return rest
    warmup = optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
    return optax.join_schedules([warmup, rest], [train.warmup_steps])


def hecl_weight(final: float, num_steps: int) -> Schedule:
    """w(t) of Eq. (7): linear from 0 at the first step to `final` at the end of training."""
    return lambda step: final * jnp.minimum(step / num_steps, 1.0)
