"""CLIP configurations: our plain dataclasses, Hugging Face config.json files, built-in ones."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from sapl_jax.errors import UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}
LORA_TARGETS = ("q", "k", "v", "out", "fc1", "fc2")


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """What both towers share. Names are those of the Hugging Face configuration.

    What a file leaves out, here and in the towers, is as in `transformers`.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The vision tower. Pixels of `image_size` squared give the native grid of patches."""

    patch_size: int = 32
    image_size: int = 224


@dataclasses.dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int = 49406
    eos_token_id: int = 49407  # 2 in old files, where it means "the last id of the vocabulary"


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the joint space."""

    vision: VisionConfig
    text: TextConfig
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which vision projections are adapted, and how: W + A B * alpha / rank."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q", "v")  # of q, k, v, out, fc1, fc2


def _openai(
    width: int, depth: int, heads: int, patch: int, image: int, text_width: int, text_heads: int
) -> CLIPConfig:
    vision = VisionConfig(width, 4 * width, depth, heads, patch_size=patch, image_size=image)
    text = TextConfig(text_width, 4 * text_width, 12, text_heads)
    return CLIPConfig(vision, text, projection_dim=text_width)


BUILT_IN: dict[str, CLIPConfig] = {
    "vit-base-patch32": _openai(768, 12, 12, 32, 224, 512, 8),
    "vit-base-patch16": _openai(768, 12, 12, 16, 224, 512, 8),
    "vit-large-patch14": _openai(1024, 24, 16, 14, 224, 768, 12),
    "vit-large-patch14-336": _openai(1024, 24, 16, 14, 336, 768, 12),
}


def read_config(path: Path) -> CLIPConfig:
    """Reads a Hugging Face `config.json` of a CLIP model, as `transformers.CLIPConfig` does.

    Raises:
        UserError: the file is absent, not JSON, or not a CLIP this library can build.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot read the CLIP configuration ({error}). "
            "A CLIP folder holds the config.json that the Hugging Face library writes."
        ) from error
    found = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
    if found != "clip":
        raise UserError(
            f"{path}: found model_type {found!r}, expected 'clip' (text and vision towers). "
            "Give a folder or hub name of a whole CLIP model."
        )
    vision, text = (_given(path, raw, name) for name in ("vision_config", "text_config"))
    towers = VisionConfig(**_fields(VisionConfig, vision)), TextConfig(**_fields(TextConfig, text))
    joint = {k: raw[k] for k in ("projection_dim", "logit_scale_init_value") if k in raw}
    config = CLIPConfig(*towers, **joint)
    problems = [*_problems("", config), *_problems("vision.", towers[0])]
    problems += _problems("text.", towers[1])
    if (channels := vision.get("num_channels", 3)) != 3:
        problems.append(f"num_channels is {channels!r}; only RGB (3) is supported")
    if problems:
        raise UserError(f"{path}: unusable CLIP configuration: " + "; ".join(problems))
    return config


def _given(path: Path, raw: dict[str, Any], name: str) -> dict[str, Any]:
    """What a file says of a tower: old files say it twice, and then "..._dict" holds."""
    given = raw.get(f"{name}_dict")
    given = raw.get(name) if given is None else given
    if not isinstance(given, dict | None):
        raise UserError(f"{path}: {name} is {given!r}, expected the fields of a tower")
    return given or {}


def _fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    return {x.name: values[x.name] for x in dataclasses.fields(cls) if x.name in values}


# By a field's type: the types of the values it takes, and their name.
_KINDS: dict[Any, tuple[Any, str]] = {
    int: (int, "a positive integer"), float: ((int, float), "a number"), str: (str, "a name"),
}  # fmt: skip


def _problems(prefix: str, part: CLIPConfig | TowerConfig) -> list[str]:
    problems = []
    for field in dataclasses.fields(part):
        if field.type not in _KINDS:
            continue  # A tower, which is looked at by itself.
        (types, expected), value = _KINDS[field.type], getattr(part, field.name)
        least = 0 if field.name.endswith("token_id") else 1
        if not isinstance(value, types) or (types is int and value < least):
            problems.append(f"{prefix}{field.name} is {value!r}, expected {expected}")
    if problems or isinstance(part, CLIPConfig):
        return problems
    if part.hidden_act not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        problems.append(f"{prefix}hidden_act is {part.hidden_act!r}, known: {known}")
    if part.hidden_size % part.num_attention_heads:
        problems.append(
            f"{prefix}hidden_size is {part.hidden_size}, not a multiple of "
            f"{part.num_attention_heads} heads"
        )
    return problems


def to_hugging_face(config: CLIPConfig) -> dict[str, Any]:
    """The content of a `config.json` that `transformers` opens and `read_config` reads back."""
    joint = {"projection_dim": config.projection_dim}
    text = {"model_type": "clip_text_model", **dataclasses.asdict(config.text), **joint}
    vision = {"model_type": "clip_vision_model", **dataclasses.asdict(config.vision), **joint}
    scale = {"logit_scale_init_value": config.logit_scale_init_value}
    towers = {"text_config": text, "vision_config": vision}
    return {"architectures": ["CLIPModel"], "model_type": "clip", **joint, **scale, **towers}
