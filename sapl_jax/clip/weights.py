"""Which Hugging Face tensor goes where: one table of names, read from files and written to them."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from sapl_jax.clip.config import to_hugging_face
from sapl_jax.clip.lora import merge_lora
from sapl_jax.clip.model import CLIP
from sapl_jax.errors import UserError
from sapl_jax.progress_bars import ProgressBar


class Tensor(Protocol):
    """A tensor in a file: its shape and dtype are known before its content is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As in NumPy, without reading the content."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """As stored, without reading the content."""
        ...

    def read(self) -> np.ndarray:
        """The content. May be called once only."""
        ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and its names in files; `{}` stands for the block's number.

    Attributes:
        axes: `torch_array.transpose(axes)` has our layout; None: it has our layout already.
    """

    path: str
    flax: str
    torch: str
    axes: tuple[int, ...] | None = None

    @property
    def is_stacked(self) -> bool:
        """Whether our parameter stacks one tensor of the file for each block."""
        return "{}" in self.torch

    def name(self, style: str) -> str:
        """The name pattern in a file of `style`, "flax" or "torch"."""
        return self.flax if style == "flax" else self.torch

    def axes_of(self, style: str) -> tuple[int, ...] | None:
        """How to transpose an array of a file of `style`."""
        return self.axes if style == "torch" else None


def _bias(path: str, name: str) -> Entry:
    return Entry(f"{path}.bias", f"{name}.bias", f"{name}.bias")


def _kernel(path: str, name: str) -> Entry:
    return Entry(f"{path}.kernel", f"{name}.kernel", f"{name}.weight", (1, 0))


def _dense(path: str, name: str) -> list[Entry]:
    return [_kernel(path, name), _bias(path, name)]


def _norm(path: str, name: str) -> list[Entry]:
    return [Entry(f"{path}.scale", f"{name}.scale", f"{name}.weight"), _bias(path, name)]


def _embedding(path: str, name: str) -> Entry:
    return Entry(path, f"{name}.embedding", f"{name}.weight")


def _plain(path: str, name: str) -> Entry:
    return Entry(path, name, name)


def _blocks(path: str, name: str) -> list[Entry]:
    return [
        *_norm(f"{path}.norm1", f"{name}.{{}}.layer_norm1"),
        *_dense(f"{path}.q", f"{name}.{{}}.self_attn.q_proj"),
        *_dense(f"{path}.k", f"{name}.{{}}.self_attn.k_proj"),
        *_dense(f"{path}.v", f"{name}.{{}}.self_attn.v_proj"),
        *_dense(f"{path}.out", f"{name}.{{}}.self_attn.out_proj"),
        *_norm(f"{path}.norm2", f"{name}.{{}}.layer_norm2"),
        *_dense(f"{path}.fc1", f"{name}.{{}}.mlp.fc1"),
        *_dense(f"{path}.fc2", f"{name}.{{}}.mlp.fc2"),
    ]


_PATCH = "vision_model.embeddings.patch_embedding"
TABLE: list[Entry] = [
    _plain("logit_scale", "logit_scale"),
    _plain("vision.class_embedding", "vision_model.embeddings.class_embedding"),
    Entry("vision.patch_kernel", f"{_PATCH}.kernel", f"{_PATCH}.weight", (2, 3, 1, 0)),
    _embedding("vision.positions", "vision_model.embeddings.position_embedding"),
    *_norm("vision.pre_norm", "vision_model.pre_layrnorm"),
    *_blocks("vision.blocks", "vision_model.encoder.layers"),
    *_norm("vision.post_norm", "vision_model.post_layernorm"),
    _kernel("visual_projection", "visual_projection"),
    _embedding("text.token_embedding", "text_model.embeddings.token_embedding"),
    _embedding("text.positions", "text_model.embeddings.position_embedding"),
    *_blocks("text.blocks", "text_model.encoder.layers"),
    *_norm("text.final_norm", "text_model.final_layer_norm"),
    _kernel("text.projection", "text_projection"),
]

# Buffers that older PyTorch files hold besides the weights: 0, 1, 2, ... and nothing else.
_IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def variable(clip: CLIP, path: str) -> nnx.Variable:
    """The variable at a dotted path, e.g. "vision.blocks.q.kernel"."""
    node: Any = clip
    for part in path.split("."):
        node = getattr(node, part)
    return node


def names_in_file(clip: CLIP, entry: Entry, style: str) -> list[str]:
    """The names of one entry's tensors in a file: one, or one for each block."""
    pattern = entry.name(style)
    if not entry.is_stacked:
        return [pattern]
    return [pattern.format(block) for block in range(variable(clip, entry.path).shape[0])]


def fill(clip: CLIP, tensors: Mapping[str, Tensor], style: str, file: str) -> None:
    """Sets every frozen parameter of `clip` (which may be abstract) from a file's tensors.

    Args:
        clip: model without LoRA; its values are replaced, its dtypes kept.
        tensors: all tensors of the file by name.
        style: "flax" or "torch" naming and layout.
        file: for messages.

    Raises:
        UserError: names missing, unexpected, or with another shape or a dtype that is not
            floating: one error that lists them all. `clip` is then unchanged.
    """
    _check(clip, tensors, style, file)
    for entry in ProgressBar(TABLE, desc="CLIP weights", unit="tensor", leave=False, disable=None):
        target = variable(clip, entry.path)
        names = names_in_file(clip, entry, style)
        axes = entry.axes_of(style)
        # One parameter at a time goes to the device, so the host never holds a second model.
        array = np.empty(target.shape, target.dtype)
        for index, name in enumerate(names):
            value = tensors[name].read()
            where = index if entry.is_stacked else ...
            if axes is None:
                array[where] = value
            else:
                _copy_transposed(value.transpose(axes), array[where])
        target.set_value(jnp.asarray(array))


def _copy_transposed(source: np.ndarray, target: np.ndarray) -> None:
    """target[...] = source, where the memory order of the two differs.

    In one go NumPy touches a cache line of `target` once for each of its elements; columns as wide
    as a line are copied seven times as fast.
    """
    step = 64 // target.itemsize
    for start in range(0, target.shape[-1], step):
        target[..., start : start + step] = source[..., start : start + step]


def _check(clip: CLIP, tensors: Mapping[str, Tensor], style: str, file: str) -> None:
    expected = dict(_expected_shapes(clip, style))
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and name not in _IGNORED]
    wrong = []
    for name, shape in expected.items():
        if name not in tensors:
            continue
        found = tensors[name]
        if tuple(found.shape) != shape:
            wrong.append(f"{name}: {tuple(found.shape)}, expected {shape}")
        elif not jnp.issubdtype(found.dtype, jnp.floating):
            wrong.append(f"{name}: dtype {found.dtype}, expected a floating type")
    if missing or unexpected or wrong:
        parts = [f"{file}: the weights do not fit the configuration in config.json."]
        for title, lines in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape or type", wrong),
        ):
            if lines:
                parts.append(f"{len(lines)} {title}:\n  " + "\n  ".join(lines))
        parts.append("Use the config.json that belongs to this file, of a whole CLIP model.")
        raise UserError("\n".join(parts))


def _expected_shapes(clip: CLIP, style: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for entry in TABLE:
        shape = tuple(variable(clip, entry.path).shape)
        if entry.is_stacked:
            shape = shape[1:]
        axes = entry.axes_of(style)
        if axes is not None:
            shape = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        for name in names_in_file(clip, entry, style):
            yield name, shape


def save_clip(clip: CLIP, folder: str | Path) -> Path:
    """Writes `config.json` and `model.safetensors` (PyTorch names and layout) into `folder`.

    LoRA, if attached, is merged. Weights keep the dtype of `clip`. The folder is made if absent;
    other files in it stay, except that an existing `config.json` and `model.safetensors` are
    replaced.

    Returns:
        The path of `model.safetensors`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merged = merge_lora(clip)
    tensors: dict[str, np.ndarray] = {}
    for entry in TABLE:
        value = np.asarray(jax.device_get(variable(merged, entry.path)[...]))
        names = names_in_file(merged, entry, "torch")
        layers = value if entry.is_stacked else [value]
        for name, layer in zip(names, layers, strict=True):
            if entry.axes is not None:
                layer = layer.transpose(np.argsort(entry.axes))
            tensors[name] = np.asarray(layer, order="C")
    config = to_hugging_face(merged.config) | {"torch_dtype": str(merged.dtype)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    file = folder / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return file
