"""Which Hugging Face tensor goes where: one table of names, read from files and written to them."""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tqdm import tqdm

from sapl_jax.clip.config import to_hugging_face
from sapl_jax.clip.model import CLIP, merge_lora
from sapl_jax.clip.weight_files import Tensor
from sapl_jax.errors import UserError
from sapl_jax.files import write_json

# The parameters of each kind of layer: the endings of our name, of the Flax file's and of the
# PyTorch file's, and the axes with which `torch_array.transpose(axes)` has our layout.
_Ending = tuple[str, str, str, tuple[int, ...] | None]
_BIAS: _Ending = (".bias", ".bias", ".bias", None)
_KERNEL: _Ending = (".kernel", ".kernel", ".weight", (1, 0))
_SCALE: _Ending = (".scale", ".scale", ".weight", None)
_KINDS: dict[str, tuple[_Ending, ...]] = {
    "dense": (_KERNEL, _BIAS),
    "kernel": (_KERNEL,),
    "norm": (_SCALE, _BIAS),
    "embedding": (("", ".embedding", ".weight", None),),
    "patches": (("", ".kernel", ".weight", (2, 3, 1, 0)),),
    "value": (("", "", "", None),),
}
_BLOCK = (
    ("norm", "norm1", "layer_norm1"),
    *(("dense", name, f"self_attn.{name}_proj") for name in ("q", "k", "v", "out")),
    ("norm", "norm2", "layer_norm2"),
    *(("dense", name, f"mlp.{name}") for name in ("fc1", "fc2")),
)


def _blocks(path: str, name: str) -> Iterator[tuple[str, str, str]]:
    return ((kind, f"{path}.{ours}", f"{name}.{{}}.{theirs}") for kind, ours, theirs in _BLOCK)


# Kind, our path, and the name in files, where {} is the number of a block.
_TABLE: tuple[tuple[str, str, str], ...] = (
    ("value", "logit_scale", "logit_scale"),
    ("value", "vision.class_embedding", "vision_model.embeddings.class_embedding"),
    ("patches", "vision.patch_kernel", "vision_model.embeddings.patch_embedding"),
    ("embedding", "vision.positions", "vision_model.embeddings.position_embedding"),
    ("norm", "vision.pre_norm", "vision_model.pre_layrnorm"),
    *_blocks("vision.blocks", "vision_model.encoder.layers"),
    ("norm", "vision.post_norm", "vision_model.post_layernorm"),
    ("kernel", "visual_projection", "visual_projection"),
    ("embedding", "text.token_embedding", "text_model.embeddings.token_embedding"),
    ("embedding", "text.positions", "text_model.embeddings.position_embedding"),
    *_blocks("text.blocks", "text_model.encoder.layers"),
    ("norm", "text.final_norm", "text_model.final_layer_norm"),
    ("kernel", "text.projection", "text_projection"),
)

# Buffers that older PyTorch files hold besides the weights: 0, 1, 2, ... and nothing else.
_IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


class _Entry(NamedTuple):
    """One parameter of a model and its tensors in a file of some style."""

    variable: nnx.Variable  # ours
    names: list[str]  # of one tensor, or of one for each block, which `variable` stacks
    shape: tuple[int, ...]  # of one tensor, in our layout
    axes: tuple[int, ...] | None  # `tensor.transpose(axes)` has our layout; None: it has it already

    @property
    def shape_in_file(self) -> tuple[int, ...]:
        return tuple(self.shape[i] for i in np.argsort(self.axes)) if self.axes else self.shape


def _entries(clip: CLIP, style: str) -> Iterator[_Entry]:
    """All parameters; `style` is "flax" or "torch"."""
    for kind, path, name in _TABLE:
        for ours, flax, torch, axes in _KINDS[kind]:
            variable = attrgetter(path + ours)(clip)
            pattern, shape = name + (flax if style == "flax" else torch), tuple(variable.shape)
            names = [pattern]
            if "{}" in pattern:
                names, shape = [pattern.format(block) for block in range(shape[0])], shape[1:]
            yield _Entry(variable, names, shape, axes if style == "torch" else None)


def check_fit(clip: CLIP, tensors: Mapping[str, Tensor], style: str, file: str) -> None:
    """Compares a file's tensors, of which none is read, with what `clip` needs.

    Args: `tensors` and `style` as in `fill`; `file` for the message.

    Raises:
        UserError: names missing, unexpected, or with another shape or a dtype that is not
            floating: one error that lists them all.
    """
    expected = {name: e.shape_in_file for e in _entries(clip, style) for name in e.names}
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and name not in _IGNORED]
    wrong = []
    for name in [name for name in expected if name in tensors]:
        shape, dtype, _ = tensors[name]
        if tuple(shape) != expected[name]:
            wrong.append(f"{name}: {tuple(shape)}, expected {expected[name]}")
        elif not jnp.issubdtype(dtype, jnp.floating):
            wrong.append(f"{name}: dtype {dtype}, expected a floating type")
    kinds = ("missing", missing), ("unexpected", unexpected), ("of another shape or type", wrong)
    if found := [f"{len(x)} {what}:\n  " + "\n  ".join(x) for what, x in kinds if x]:
        raise UserError(
            f"{file}: the weights do not fit the configuration in config.json.\n"
            + "\n".join(found)
            + "\nUse the config.json that belongs to this file, of a whole CLIP model."
        )


def fill(clip: CLIP, tensors: Mapping[str, Tensor], style: str) -> None:
    """Sets every frozen parameter of `clip` (which may be abstract) from a file's tensors.

    Its dtypes stay, and of words it gets those that it keeps. style: "flax" or "torch" names.
    """
    entries = list(_entries(clip, style))
    for entry in tqdm(entries, desc="CLIP weights", unit="tensor", leave=False, disable=None):
        # One parameter at a time goes to the device, so the host never holds a second model.
        array = np.empty((len(entry.names), *entry.shape_in_file), entry.variable.dtype)
        kept = clip.text.kept if entry.variable is clip.text.token_embedding else None
        rows = ... if kept is None else list(kept)
        for index, name in enumerate(entry.names):
            array[index] = tensors[name].read()[rows]
        if entry.axes is not None:  # A view: JAX turns it on its way to the device.
            array = array.transpose(0, *(1 + axis for axis in entry.axes))
        entry.variable.set_value(jax.device_put(array.reshape(entry.variable.shape)))


def save_clip(clip: CLIP, folder: str | Path) -> Path:
    """Writes `config.json` and `model.safetensors` (PyTorch names and layout) into `folder`.

    LoRA, if attached, is merged. Weights keep the dtype of `clip`. The folder is made if absent;
    other files in it stay, except that these two are replaced. Returns the path of the weights.
    """
    folder = Path(folder)
    merged = merge_lora(clip)
    tensors: dict[str, np.ndarray] = {}
    for entry in _entries(merged, "torch"):
        value = np.asarray(jax.device_get(entry.variable[...]))
        for name, layer in zip(entry.names, value.reshape(-1, *entry.shape), strict=True):
            layer = layer if entry.axes is None else layer.transpose(np.argsort(entry.axes))
            tensors[name] = np.asarray(layer, order="C")
    config = to_hugging_face(merged.config) | {"torch_dtype": str(merged.dtype)}
    write_json(folder / "config.json", config)
    file = folder / "model.safetensors"
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # Also for a full disk.
        raise OSError(str(error)) from error
    return file
