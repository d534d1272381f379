"""Reads `flax_model.msgpack` and `model.safetensors` without running anything in them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors

from sapl_jax.errors import UserError

_EXT_NDARRAY, _EXT_SCALAR = 1, 3  # Flax's extension codes; 2 is a Python complex number
_CHUNKED = "__msgpack_chunked_array__"


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
        with path.open("rb") as file:
            # Streamed, so that the file's bytes and its arrays are never in memory both.
            unpacker = msgpack.Unpacker(
                file, ext_hook=_array, raw=False, max_buffer_size=0, read_size=1 << 24
            )
            tree = unpacker.unpack()
    except (msgpack.UnpackException, ValueError, TypeError, OSError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path}: not a readable Flax msgpack file ({reason}). It is truncated or damaged: "
            "copy or download it again."
        ) from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: found a {type(tree).__name__}, expected a tree of arrays.")
    tensors: dict[str, _ArrayOnce] = {}
    _flatten(tree, "", tensors, path)
    return tensors


def _array(code: int, data: bytes) -> np.ndarray:
    if code not in (_EXT_NDARRAY, _EXT_SCALAR):
        raise ValueError(f"msgpack extension {code} is not an array")
    shape, dtype_name, content = msgpack.unpackb(data, raw=False)
    dtype = np.dtype(jnp.bfloat16 if dtype_name == "bfloat16" else dtype_name)
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype_name} is not a number")
    return np.frombuffer(content, dtype).reshape(shape)


def _flatten(tree: dict[str, Any], prefix: str, into: dict[str, _ArrayOnce], path: Path) -> None:
    if _CHUNKED in tree:
        raise UserError(
            f"{path}: {prefix or 'the root'} is an array of over 1 GiB stored in chunks, which no "
            "CLIP model has. Use model.safetensors or pytorch_model.bin instead."
        )
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict):
            _flatten(value, name, into, path)
        elif isinstance(value, np.ndarray):
            into[name] = _ArrayOnce(value, value.shape, value.dtype)
        else:
            raise UserError(f"{path}: {name} is a {type(value).__name__}, expected an array.")


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
