"""The "huggingface" export: CLIP with LoRA merged, as a folder that `transformers` opens.

    config.json, model.safetensors  the CLIP (PyTorch names and layout, float32)
    export.json                     where it comes from

Prompts and heads are SAPL's own and not part of it.
"""

from pathlib import Path

from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.saving import save_clip
from sapl_jax.exporting import description
from sapl_jax.exporting.network import with_parts
from sapl_jax.training.trained import TrainedModel


def write_huggingface(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a float32 model into an existing, empty folder."""
    save_clip(trained.model.clip, folder).chmod(0o644)  # safetensors makes it private
    description.write_description(folder, description.describe(trained, "huggingface"))


def with_tower_of(trained: TrainedModel, folder: Path) -> TrainedModel:
    """The same prompts on the CLIP that is in an export folder."""
    return trained._replace(model=with_parts(trained.model, clip=load_clip(folder)))
