"""Weights from strangers: safetensors headers that lie, any damage anywhere, nothing is run."""

import json
import struct

import numpy as np
import pytest

from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.weight_files import FORMATS
from sapl_jax.errors import UserError

GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def safetensors_file(path, header, data=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    path.write_bytes(size + text + data)


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": GOOD | {"data_offsets": [0, 1 << 60]}}, None),
        ({"a": GOOD | {"data_offsets": [16, 0]}}, None),
        ({"a": GOOD | {"data_offsets": [-16, 0]}}, None),
        ({"a": GOOD | {"data_offsets": [8, 24]}}, None),
        ({"a": GOOD | {"shape": [1 << 40, 1 << 40]}}, None),
        ({"a": GOOD | {"shape": [-2, -2]}}, None),
        ({"a": GOOD | {"dtype": "PY_OBJECT"}}, None),
        ({"a": GOOD, "b": GOOD}, None),
        ({"a": 3}, None),
        ([], None),
        (b"[" * 100_000, None),
        (b'{"a":' * 20_000, None),
        ({"a": GOOD}, 1 << 63),
        ({"a": GOOD}, 10_000_000),
        ({"a": GOOD}, 0),
        (b"", None),
    ],
)
def test_a_safetensors_header_that_lies_is_a_users_error(folder_with, header, length):
    folder = folder_with()
    safetensors_file(folder / "model.safetensors", header, length=length)
    with pytest.raises(UserError, match="model.safetensors"):
        load_clip(folder)


def damage(content, rng):
    """A few bytes changed, cut out, or put in, near an end or anywhere."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(out)))
        if rng.random() < 0.7:
            at = int(rng.integers(min(3000, len(out)))) * (1 if rng.random() < 0.5 else -1)
        kind = rng.integers(4)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + 8 if at < -8 else None] = bytes(8)
        elif kind == 2:
            del out[at : at + 8 if at < -8 else None]
        else:
            out[at:at] = rng.bytes(4)
        if not out:
            break
    return bytes(out)


def read_damaged(folder, file, count, seed):
    """Reads `count` damaged copies of a weights file; how many were refused."""
    rng = np.random.default_rng(seed)
    content = (folder / file).read_bytes()
    refused = 0
    for _ in range(count):
        (folder / file).write_bytes(damage(content, rng))
        try:
            for tensor in FORMATS[file][1](folder / file).values():
                tensor.read()
        except UserError:
            refused += 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", file])
    return refused


@pytest.mark.parametrize("file", FORMATS)
def test_any_damage_is_read_or_refused(folder_with, file):
    assert read_damaged(folder_with(file), file, 150, seed=0) > 30


@pytest.mark.slow
@pytest.mark.parametrize("file", FORMATS)
def test_5000_damaged_files_are_read_or_refused(folder_with, file):
    print(file, read_damaged(folder_with(file), file, 5000, seed=1), "of 5000 refused")
