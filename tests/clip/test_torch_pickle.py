"""The reader of pytorch_model.bin: reads every tensor layout, runs nothing, refuses the rest."""

import os
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.weight_files import read_torch
from sapl_jax.errors import UserError


# What torch.save puts into data.pkl, as pickle instructions; PyTorch itself is not needed.
def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value)


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def tensor(kind, key, numel, offset, shape, strides):
    storage = group(text("storage"), named("torch", kind), text(key), text("cpu"), integer(numel))
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + group(
            storage + b"Q",
            integer(offset),
            group(*map(integer, shape)),
            group(*map(integer, strides)),
            b"\x89",
            named("collections", "OrderedDict") + b")R",
        )
        + b"R"
    )


def state_dict(**values):
    body = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02}(" + body + b"u."


def write(path, content, records=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, data in dict(records).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def test_reads_dtypes_views_and_parameters(tmp_path):
    numbers = np.arange(12)
    records = {
        "f": numbers.astype(np.float32).tobytes(),
        "b": numbers.astype(jnp.bfloat16).tobytes(),
        "h": numbers.astype(np.float16).tobytes(),
        "l": numbers.astype(np.int64).tobytes(),
        "o": bytes([1, 0, 1]),
    }
    parameter = (
        named("torch._utils", "_rebuild_parameter")
        + group(tensor("FloatStorage", "f", 12, 0, (12,), (1,)), b"\x88", b"N")
        + b"R"
    )
    tensors = read_torch(
        write(
            tmp_path / "pytorch_model.bin",
            state_dict(
                plain=tensor("FloatStorage", "f", 12, 0, (3, 4), (4, 1)),
                transposed=tensor("FloatStorage", "f", 12, 0, (4, 3), (1, 4)),
                part=tensor("BFloat16Storage", "b", 12, 5, (2, 2), (4, 1)),
                expanded=tensor("HalfStorage", "h", 12, 2, (3, 2), (0, 1)),
                scalar=tensor("LongStorage", "l", 12, 11, (), ()),
                empty=tensor("FloatStorage", "f", 12, 12, (0, 4), (4, 1)),
                flags=tensor("BoolStorage", "o", 3, 0, (3,), (1,)),
                parameter=parameter,
            ),
            records,
        )
    )
    square = numbers.reshape(3, 4)
    wanted = {
        "plain": square.astype(np.float32),
        "transposed": square.T.astype(np.float32),
        "part": np.array([[5, 6], [9, 10]], jnp.bfloat16),
        "expanded": np.array([[2, 3]] * 3, np.float16),
        "scalar": np.array(11),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False, True]),
        "parameter": numbers.astype(np.float32),
    }
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        found = tensors[name]
        assert (found.shape, found.dtype) == (value.shape, value.dtype), name
        np.testing.assert_array_equal(found.read(), value)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_the_pickle_is_named_and_not_run(tmp_path, folder_with, protocol):
    folder, marker = folder_with(), tmp_path / "ran"
    content = pickle.dumps({"weight": Evil(marker)}, protocol)
    write(folder / "pytorch_model.bin", content)
    with pytest.raises(UserError, match=r"(posix|nt)\.system"):
        load_clip(folder)
    assert not marker.exists()
    pickle.loads(content)  # the attack is real
    assert marker.exists()


TENSOR = tensor("FloatStorage", "0", 4, 0, (4,), (1,))
STORAGE = (
    group(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), integer(4))
    + b"Q"
)
LARGE = integer(0) + group(integer(2_000_000)) + group(integer(1))
BUILTIN_EVAL = named("builtins", "eval") + group(text("1 + 1")) + b"R"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (state_dict(a=BUILTIN_EVAL), r"builtins\.eval"),
        (state_dict(a=named("torch._utils", "_rebuild_tensor_v2.__class__")), "__class__"),
        (state_dict(a=named("torch.storage", "_load_from_bytes")), "_load_from_bytes"),
        (state_dict(a=named("collections", "OrderedDict")), "a of type type"),
        (state_dict(a=integer(3)), "a of type int"),
        (state_dict(a=state_dict()[2:-1]), "a of type dict"),
        (b"\x80\x02" + integer(3) + b".", "a int instead of names"),
        (b"\x80\x02}(" + integer(1) + integer(2) + b"u.", "1 of type int"),
        (state_dict(a=text("x") + b"Q"), "not a storage"),
        (state_dict(a=group(text("storage"), b"N", text("0"), b"N", b"N") + b"Q"), "a storage"),
        # An index that would make the reader allocate memory without end.
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo index"),
        (b"\x80\x02\x82\x01.", "unregistered extension code"),
        # Setting attributes on what the reader hands out must not change the reader.
        (
            state_dict(
                a=named("torch._utils", "_rebuild_tensor_v2")
                + b"}"
                + text("x")
                + integer(1)
                + b"sb"
            ),
            "damaged",
        ),
        # Nor what it noted: this tensor would then reach far beyond its storage.
        (state_dict(a=TENSOR + b"(" + STORAGE + LARGE + b"lb"), "damaged"),
        (state_dict(a=tensor("FloatStorage", "0", 4, 0, (5,), (1,))), "reaches element 4"),
        (state_dict(a=tensor("FloatStorage", "0", 4, 2, (2, 2), (1, 1))), "reaches element 4"),
        (state_dict(a=tensor("FloatStorage", "0", 4, -1, (1,), (1,))), "offset -1"),
        (state_dict(a=tensor("FloatStorage", "0", 4, 3, (4,), (-1,))), r"strides \(-1,\)"),
        (state_dict(a=tensor("FloatStorage", "0", 4, 0, (2, 2), (1,))), "without a storage"),
        (state_dict(a=tensor("DoubleStorage", "0", 4, 0, (4,), (1,))), "needs 32 bytes.*found 16"),
        (state_dict(a=tensor("FloatStorage", "9", 4, 0, (4,), (1,))), "found None"),
        (b"\x80\x02}(", "damaged"),
        (b"", "damaged"),
    ],
)
def test_anything_but_plain_tensors_is_refused(tmp_path, content, found):
    path = write(tmp_path / "pytorch_model.bin", content, {"0": b"\0" * 16})
    with pytest.raises(UserError, match=found):
        read_torch(path)


def test_the_format_before_pytorch_1_6_says_how_to_convert(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(UserError, match=r"before 1\.6.*torch\.save\(torch\.load"):
        read_torch(path)


def test_other_zips_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="not one that torch.save wrote"):
        read_torch(path)
    write(path, state_dict(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch(path)


def test_flipped_bits_in_a_record_are_noticed(folder_with):
    folder = folder_with("pytorch_model.bin")
    path = folder / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="CRC"):
        load_clip(folder)
