"""Reads `flax_model.msgpack` and `model.safetensors` without running anything in them."""

import dataclasses
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

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


@dataclasses.dataclass
class _ArrayOnce:
    array: np.ndarray | None
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        # Handed over rather than kept, so that memory falls as the model grows.
        array, self.array = self.array, None
        if array is None:
            raise RuntimeError("this tensor has been read already")
        return array


def read_msgpack(path: Path) -> dict[str, _ArrayOnce]:
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
    return {name: _ArrayOnce(np.asarray(v), v.shape, v.dtype) for name, v in values.items()}


_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class _SafeTensor:
    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        return self.file.get_tensor(self.name)


def read_safetensors(path: Path) -> dict[str, _SafeTensor]:
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
            tensors[name] = _SafeTensor(file, name, tuple(part.get_shape()), _DTYPES[found])
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}). It is truncated or damaged: "
            "copy or download it again."
        ) from error
    return tensors
