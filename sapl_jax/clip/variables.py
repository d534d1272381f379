"""The variable types that say what trains: `Trainable` and its subclasses do, `nnx.Param` does not.

`nnx.split(model, Trainable, nnx.Param)` therefore gives the trainable and the frozen tree.
"""

from flax import nnx


class Trainable(nnx.Variable):
    """A parameter that training changes. Kept in float32 whatever the compute dtype."""


class LoRAParam(Trainable):
    """One factor of a low-rank update: A [..., in, rank] or B [..., rank, out]."""
