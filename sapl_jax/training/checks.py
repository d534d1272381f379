"""What a configuration may hold, beyond the types of its fields."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sapl_jax.errors import UserError

_MEMBERS = {"model.taps": int, "model.class_words": str, "clip.lora_targets": str}
# Written out, not imported: what knows them also loads JAX, and mistakes are told before that.
CHOICES: dict[str, Collection[str]] = {
    "data.dataset": ("casia_v2", "folder"),
    "train.schedule": ("constant", "cosine"),
    "train.remat": ("auto", "none", "mlp", "blocks"),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "model.prompts": ("fixed", "coop", "cocoop", "ecpl_no_edge", "ecpl"),
    "model.edges": ("own", "another"),
    "model.image_logits": ("cls", "patches", "both"),
    "train.background_of": ("all", "authentic"),
    "model.heat_map.taps": ("logits", "probabilities"),
    "model.hecl.givers": ("label", "tampered_both"),
    "model.hecl.space": ("shared", "own"),
    "train.keep": ("last", "best"),
}
_ABOVE_ZERO = (
    "image.size",
    "train.batch_size",
    "train.epochs",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.learning_rate",
    "train.prompt_rate",
    "train.tampered_weight",
    "model.attention_heads",
    "model.prompt_length",
    "model.pooled_share",
    "model.heat_map.miss_cost",
    "model.hecl.top_k",
    "model.hecl.feature_dim",
    "model.hecl.queue_length",
    "model.hecl.temperature",
)
_AT_LEAST_ZERO = (
    "train.num_steps",
    "train.warmup_steps",
    "train.weight_decay",
    "train.background_share",
    "train.background_weight",
    "data.jpeg_share",
    "train.max_bad_steps",
    "train.eval_batch_size",
    "model.logit_scale",
    "model.hecl.weight",
    "model.heat_map.sigma",
)


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config


def check_values(config: ConfigDict) -> None:
    """Refuses numbers out of range and tuples with members of another type.

    Words given as a,b, which flags take for one word, are split in place.

    Raises:
        UserError: names the flag, what was given and what is expected.
    """
    for field, kind in _MEMBERS.items():
        section, name = field.split(".")
        split = (m.split(",") if isinstance(m, str) else [m] for m in config[section][name])
        members = tuple(m for ms in split for m in ms if m != "")
        if not all(isinstance(m, kind) for m in members):
            raise UserError(
                f"--config.{field} is {','.join(map(str, members))!r}; expected "
                f"{'whole numbers' if kind is int else 'words'} with commas between them."
            )
        config[section][name] = members
    for field in (*_ABOVE_ZERO, *_AT_LEAST_ZERO):
        value = _value(config, field)
        # Written so that NaN is refused.
        if not (value > 0 or (value == 0 and field in _AT_LEAST_ZERO)):
            least = "at least 0" if field in _AT_LEAST_ZERO else "more than 0"
            raise UserError(f"--config.{field} is {value}; expected {least}.")
    for field, choices in CHOICES.items():
        if _value(config, field) not in choices:
            raise UserError(
                f"--config.{field} is {_value(config, field)!r}; expected one of "
                f"{', '.join(choices)}."
            )
    for field in ("train.background_share", "model.pooled_share", "data.jpeg_share"):
        if _value(config, field) > 1:
            raise UserError(
                f"--config.{field} is {_value(config, field)}; expected a share, from 0 to 1."
            )
    clip = config.clip.pretrained  # A folder, random:NAME or a name on the hub.
    if not (Path(clip).is_dir() or re.fullmatch(r"random:.+|\w[\w.-]*(/[\w.-]+)?", clip)):
        raise UserError(f"{clip}: no such folder. Give a CLIP folder or a Hugging Face hub name.")
    steps = re.fullmatch(r"(\d+):(\d+)|", config.train.profile_steps)
    if not steps or steps[1] and not int(steps[1]) < int(steps[2]):
        raise UserError(
            f"--config.train.profile_steps is {config.train.profile_steps!r}; expected FIRST:LAST."
        )
    if not 0 <= config.data.val_fraction < 1:
        raise UserError(
            f"--config.data.val_fraction is {config.data.val_fraction}; expected 0 to under 1."
        )
    if len(config.model.class_words) != 2:
        raise UserError(
            f"--config.model.class_words is {','.join(config.model.class_words)!r}; expected two "
            "words, for authentic and for tampered pictures."
        )
