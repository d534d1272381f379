"""CLIP configurations: our plain dataclasses, Hugging Face config.json files, built-in ones."""

import dataclasses
import json
import os
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
    """What both towers share. Names are those of the Hugging Face configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The vision tower. Pixels of `image_size` squared give the native grid of patches."""

    patch_size: int = 32
    image_size: int = 224

    @property
    def grid(self) -> int:
        """Patches along one side of the native grid."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int = 49406
    eos_token_id: int = 49407  # 2 in old files, where it means "the last id of the vocabulary"


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the joint space."""

    vision: VisionConfig
    text: TextConfig
    projection_dim: int
    logit_scale_init_value: float = 2.6592


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which vision projections are adapted, and how: W + A B * alpha / rank."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q", "v")  # of q, k, v, out, fc1, fc2

    def __post_init__(self) -> None:
        unknown = [target for target in self.targets if target not in LORA_TARGETS]
        if unknown or not self.targets or len(set(self.targets)) != len(self.targets):
            raise UserError(
                f"LoRA targets are {tuple(self.targets)!r}, expected one or more of "
                f"{', '.join(LORA_TARGETS)}, each once."
            )
        if self.rank < 1:
            raise UserError(f"LoRA rank is {self.rank}, expected at least 1.")


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
    """Reads a Hugging Face `config.json` of a CLIP model.

    Raises:
        UserError: the file is absent, not JSON, or not a CLIP this library can build.
    """
    # transformers takes seconds to import, so only reading a file pays for it, and its advice
    # about an absent PyTorch does not concern this library.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

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
    try:
        full: Any = transformers.CLIPConfig(**raw)
        vision = VisionConfig(**_fields(VisionConfig, full.vision_config))
        text = TextConfig(**_fields(TextConfig, full.text_config))
        config = CLIPConfig(vision, text, full.projection_dim, full.logit_scale_init_value)
    except Exception as error:  # transformers validates with exception types of its own
        raise UserError(f"{path}: not a valid CLIP configuration: {error}") from error
    if (channels := full.vision_config.num_channels) != 3:
        raise UserError(f"{path}: num_channels is {channels}; only RGB (3) is supported.")
    _check(path, config)
    return config


def _fields(cls: type, config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(cls)}


def _check(path: Path, config: CLIPConfig) -> None:
    problems = []
    for name, tower in (("vision", config.vision), ("text", config.text)):
        for field in dataclasses.fields(tower):
            value = getattr(tower, field.name)
            ids = field.name.endswith("token_id")
            if field.type is int and (not isinstance(value, int) or (value < 1 and not ids)):
                problems.append(f"{name}.{field.name} is {value!r}, expected a positive integer")
        if tower.hidden_act not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            problems.append(f"{name}.hidden_act is {tower.hidden_act!r}, known: {known}")
    if problems:
        raise UserError(f"{path}: unusable CLIP configuration: " + "; ".join(problems))


def to_hugging_face(config: CLIPConfig) -> dict[str, Any]:
    """The content of a `config.json` that `transformers` opens and `read_config` reads back."""
    joint = {"projection_dim": config.projection_dim}
    text = {"model_type": "clip_text_model", **dataclasses.asdict(config.text), **joint}
    vision = {"model_type": "clip_vision_model", **dataclasses.asdict(config.vision), **joint}
    scale = {"logit_scale_init_value": config.logit_scale_init_value}
    towers = {"text_config": text, "vision_config": vision}
    return {"architectures": ["CLIPModel"], "model_type": "clip", **joint, **scale, **towers}
