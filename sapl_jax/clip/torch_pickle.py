"""Reads `pytorch_model.bin` without PyTorch and without running code from the file.

The file is a zip: `data.pkl` says which tensors exist, `data/<key>` holds their bytes. Unpickling
here can only call the stand-ins below, none of which does more than note down a shape.
"""

import collections
import dataclasses
import io
import math
import pickle
import pickletools
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sapl_jax.clip.weight_files import Tensor
from sapl_jax.errors import UserError

# The first bytes of what torch.save wrote before PyTorch 1.6.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_RESAVE = (
    "Convert it on a machine with PyTorch: "
    "torch.save(torch.load(FILE, map_location='cpu', weights_only=True), FILE), "
    "or use the model's model.safetensors or flax_model.msgpack."
)
# What the zipfile module raises, one way or another, for a damaged archive: undecodable names are
# a ValueError, features it does not know a RuntimeError.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, OverflowError),
    struct.error,
)
_OPCODE_NAMES = (
    "PROTO FRAME STOP MARK POP POP_MARK GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ BINPERSID NONE "
    "NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 BINFLOAT UNICODE SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "EMPTY_DICT DICT LIST SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)
_OPCODES = frozenset(_OPCODE_NAMES.split())


class _Refused(Exception):
    """The file holds something that is not a plain tensor."""


@dataclasses.dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle describes it. Offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
        # The arguments left over: requires_grad, backward hooks, metadata.
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise _Refused("a tensor without a storage")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise _Refused(f"a tensor with offset {offset}, shape {shape}, strides {strides}")
        shape, strides = tuple(shape), tuple(strides)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= storage.numel:
            raise _Refused(
                f"a tensor that reaches element {last} of a storage of {storage.numel} elements"
            )
        return _View(storage, offset, shape, strides)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
} | {
    ("torch", f"{name}Storage"): _StorageType(np.dtype(dtype))
    for name, dtype in {
        "BFloat16": jnp.bfloat16, "Half": np.float16, "Float": np.float32, "Double": np.float64,
        "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise _Refused(f"a reference {str(pid)[:80]} that is not a storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, _StorageType) or type(key) is not str or type(numel) is not int:
            raise _Refused(f"a storage described by {str(pid)[:80]}")
        return _Storage(key, kind.dtype, numel)


def _read_view(path: Path, archive: zipfile.ZipFile, record: str, view: _View) -> np.ndarray:
    try:
        content = archive.read(record)
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    # The bounds were checked when the view was made, against the record's true size.
    dtype = view.storage.dtype
    strides = [stride * dtype.itemsize for stride in view.strides]
    values = np.frombuffer(content, dtype)[view.offset :]
    return np.lib.stride_tricks.as_strided(values, view.shape, strides, writeable=False)


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch state dict by name; contents are read when asked for.

    Raises:
        UserError: the file is truncated or damaged, in the format from before PyTorch 1.6, or
            names anything but plain tensors (the message says what).
    """
    try:
        with path.open("rb") as file:
            legacy = file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC
        if legacy:
            raise UserError(f"{path}: this is PyTorch's format from before 1.6. {_RESAVE}")
        archive = zipfile.ZipFile(path)
        records = {info.filename: info for info in archive.infolist()}
        packed = [name for name, i in records.items() if i.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise UserError(f"{path}: record {packed[0]} is compressed, torch.save never does so.")
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip, but not one that torch.save wrote. {_RESAVE}")
        prefix = pickles[0].removesuffix("data.pkl")
        order = prefix + "byteorder"
        if order in records and archive.read(order) != b"little":
            raise UserError(f"{path}: not stored in little-endian byte order. {_RESAVE}")
        content = archive.read(pickles[0])
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    tensors = {}
    for name, view in _unpickle(content, path).items():
        if type(name) is not str or not isinstance(view, _View):
            raise _refusal(path, f"{str(name)[:80]} of type {type(view).__name__}")
        record = f"{prefix}data/{view.storage.key}"
        needed = view.storage.numel * view.storage.dtype.itemsize
        size = records[record].file_size if record in records else None
        if size != needed:
            raise UserError(
                f"{path}: {name} needs {needed} bytes in record {record}, found {size}. "
                "The file is damaged: copy or download it again."
            )
        read = partial(_read_view, path, archive, record, view)
        tensors[name] = Tensor(view.shape, view.storage.dtype, read)
    return tensors


def _unpickle(content: bytes, path: Path) -> dict[Any, Any]:
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise _Refused(f"the pickle instruction {opcode.name}")
            # A memo index is a count of objects so far; a huge one only serves to use up memory.
            is_put = opcode.name in ("PUT", "LONG_BINPUT")
            if is_put and (argument is None or int(argument) > len(content)):
                raise _Refused(f"a memo index of {argument}")
        result = _Unpickler(io.BytesIO(content)).load()
    except _Refused as refused:
        raise _refusal(path, str(refused)) from refused
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it was used
        raise _damaged(path, error) from error
    if not isinstance(result, dict):
        raise _refusal(path, f"a {type(result).__name__} instead of names and tensors")
    return result


def _refusal(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: found {found}; only plain tensors in a state dict are accepted, and nothing "
        f"from the file was run. If you trust it: {_RESAVE}"
    )


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(
        f"{path}: not a readable PyTorch file ({reason}). It is truncated or damaged: copy or "
        "download it again."
    )
