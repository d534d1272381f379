"""CLIP in Flax NNX: vision and text towers, LoRA, and loading of Hugging Face files."""

from sapl_jax.clip.blocks import LoRAParam, Trainable
from sapl_jax.clip.config import LoRAConfig
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import CLIP, CLIPSource, merge_lora
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.clip.towers import VisionFeatures
from sapl_jax.clip.weights import save_clip

__all__ = [
    "CLIP",
    "CLIPSource",
    "LoRAConfig",
    "LoRAParam",
    "Trainable",
    "VisionFeatures",
    "class_token_ids",
    "load_clip",
    "merge_lora",
    "save_clip",
]
