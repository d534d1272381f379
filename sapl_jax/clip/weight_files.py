"""Reads `flax_model.msgpack` and `model.safetensors` without running anything in them."""

from collections.abc import Callable
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors
from flax import serialization, traverse_util

from sapl_jax.errors import UserError

# What unpacking raises, by what is damaged.
_DAMAGE = (
    *(msgpack.UnpackException, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, RecursionError, OSError),
)


class Tensor(NamedTuple):
    """A tensor in a file: shape and dtype as stored, and `read`, to be called once only."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """The arrays of a Flax msgpack file under dotted names.

    Raises:
        UserError: the file is truncated, not msgpack, or holds anything but arrays.
    """
    try:
        # Mapped (any buffer will do), so that the file's bytes and its arrays are never both in
        # memory.
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            tree = serialization.msgpack_restore(content)  # type: ignore[arg-type]
        if not isinstance(tree, dict):
            raise UserError(f"{path}: found a {type(tree).__name__}, expected a tree of arrays.")
        values = traverse_util.flatten_dict(tree, sep=".")
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path}: not a readable Flax msgpack file ({reason}). It is truncated or damaged: "
            "copy or download it again."
        ) from error
    for name, value in values.items():
        if not isinstance(value, np.ndarray | np.generic):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, expected an array.")
    # Handed over rather than kept, so that memory falls as the model grows.
    return {name: Tensor(v.shape, v.dtype, partial(values.pop, name)) for name, v in values.items()}


_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; contents are read when asked for.

    Raises:
        UserError: the file is truncated, not safetensors, or has a dtype no CLIP file has.
    """
    tensors = {}
    try:
        file = safetensors.safe_open(path, framework="np")
        for name in file.keys():  # noqa: SIM118 (the file object is no mapping)
            part = file.get_slice(name)
            found = part.get_dtype()
            if found not in _DTYPES:
                raise UserError(
                    f"{path}: tensor {name} has dtype {found}, expected one of {sorted(_DTYPES)}"
                )
            dtype = np.dtype(_DTYPES[found])
            tensors[name] = Tensor(tuple(part.get_shape()), dtype, partial(file.get_tensor, name))
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}). It is truncated or damaged: "
            "copy or download it again."
        ) from error
    return tensors
