"""Reads `flax_model.msgpack`, the weights file of Flax models, without running anything in it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np

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
