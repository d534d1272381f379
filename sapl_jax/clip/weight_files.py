"""Reads CLIP's weights, in any of three formats, without running anything that is in the file.

`pytorch_model.bin` is read without PyTorch. It is a zip: `data.pkl` says which tensors exist,
`data/<key>` holds their bytes. Unpickling here can only call the stand-ins below, none of which
does more than note down a shape.
"""

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import serialization, traverse_util

from sapl_jax.errors import UserError


class Tensor(NamedTuple):
    """A tensor in a file: shape and dtype as stored, and `read`, to be called once only."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # A damaged file can fail in any way; nothing of it was used.
        raise UserError(
            f"{path}: not a readable {kind} file ({str(error) or type(error).__name__}). It is "
            "truncated or damaged: copy or download it again."
        ) from error


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """The arrays of a Flax msgpack file under dotted names.

    Raises:
        UserError: the file is truncated, not msgpack, or holds anything but arrays.
    """
    with _reading(path, "Flax msgpack"):
        # Mapped (any buffer will do), so that the file's bytes and its arrays are never both in
        # memory.
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            tree = serialization.msgpack_restore(content)  # type: ignore[arg-type]
        if not isinstance(tree, dict):
            raise UserError(f"{path}: found a {type(tree).__name__}, expected a tree of arrays.")
        values = traverse_util.flatten_dict(tree, sep=".")
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
    with _reading(path, "safetensors"):
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
    return tensors


# The first bytes of what torch.save wrote before PyTorch 1.6.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_RESAVE = (
    "Convert it on a machine with PyTorch: "
    "torch.save(torch.load(FILE, map_location='cpu', weights_only=True), FILE), "
    "or use the model's model.safetensors or flax_model.msgpack."
)


class _Refused(Exception):
    """The file holds something that is not a plain tensor."""


# Stand-ins are tuples or have no attributes: the instruction BUILD could change what they say.
class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    numel: int


class _View(NamedTuple):
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
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= storage.numel:
            raise _Refused(
                f"a tensor that reaches element {last} of a storage of {storage.numel} elements"
            )
        return _View(storage, offset, tuple(shape), tuple(strides))


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
    ("torch", f"{name}Storage"): _StorageType(np.dtype(_DTYPES[kind]))
    for name, kind in {
        "BFloat16": "BF16", "Half": "F16", "Float": "F32", "Double": "F64", "Long": "I64",
        "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
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


def _unpickle(content: bytes, path: Path) -> dict[str, _View]:
    try:
        for opcode, argument, _ in pickletools.genops(content):
            # A memo index is a count of objects so far; a huge one only serves to use up memory.
            is_put = opcode.name in ("PUT", "LONG_BINPUT")
            if is_put and (argument is None or int(argument) > len(content)):
                raise _Refused(f"a memo index of {argument}")
        views = _Unpickler(io.BytesIO(content)).load()
        if not isinstance(views, dict):
            raise _Refused(f"a {type(views).__name__} instead of names and tensors")
        for name, view in views.items():
            if type(name) is not str or not isinstance(view, _View):
                raise _Refused(f"{str(name)[:80]} of type {type(view).__name__}")
    except _Refused as refused:
        raise UserError(
            f"{path}: found {refused}; only plain tensors in a state dict are accepted, and "
            f"nothing from the file was run. If you trust it: {_RESAVE}"
        ) from refused
    return views


def _read_view(path: Path, archive: zipfile.ZipFile, record: str, view: _View) -> np.ndarray:
    with _reading(path, "PyTorch"):
        content = archive.read(record)
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
    with _reading(path, "PyTorch"):
        with path.open("rb") as file:
            if file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
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
        views = _unpickle(archive.read(pickles[0]), path)
    tensors = {}
    for name, view in views.items():
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


# The naming style and the reader of each, as preferred.
FORMATS: dict[str, tuple[str, Callable[[Path], dict[str, Tensor]]]] = {
    "flax_model.msgpack": ("flax", read_msgpack),
    "model.safetensors": ("torch", read_safetensors),
    "pytorch_model.bin": ("torch", read_torch),
}
