"""Reads `model.safetensors` lazily, tensor by tensor."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from sapl_jax.errors import UserError

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
