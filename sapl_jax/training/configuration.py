"""A training's configuration and data, read and checked without loading JAX."""

import math
import re
from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipelines.prepared import open_prepared
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax.errors import UserError
from sapl_jax.workdir import flat, trained_on

_PACKAGED = Path(__file__).parents[2] / "configs"  # Not imported: yours may have that name.
PAPER = str(_PACKAGED / "sapl.py")
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
    "model.hecl.givers": ("label", "tampered_both", "found_both"),
    "model.hecl.space": ("shared", "own"),
    "train.keep": ("last", "best"),
}
_ABOVE_ZERO = (
    "image.size clip.lora_rank train.batch_size train.epochs train.log_every train.eval_every "
    "train.checkpoint_every train.learning_rate train.prompt_rate train.tampered_weight "
    "model.attention_heads model.prompt_length model.pooled_share "
    "model.hecl.top_k model.hecl.feature_dim model.hecl.queue_length model.hecl.temperature"
)
_AT_LEAST_ZERO = (
    "train.num_steps train.warmup_steps train.weight_decay train.background_share "
    "train.background_weight data.jpeg_share train.max_bad_steps train.eval_batch_size "
    "model.logit_scale model.hecl.weight model.heat_map.sigma model.heat_map.tile "
    "model.attention_reach model.test_reach model.heat_map.normalize model.heat_map.colours "
    "model.heat_map.threshold seed"
)
_AT_MOST = {
    "seed": 2**32 - 1, "image.size": 2**14, "train.num_steps": 10**9, "train.epochs": 10**6,
    "data.jpeg_share": 1, "model.heat_map.threshold": 1, "model.pooled_share": 1,
    "train.background_share": 1,
}  # fmt: skip


def load_config(file: str, overrides: Sequence[str]) -> ConfigDict:
    """The locked configuration that a training with these flags would have.

    Args:
        file: FILE.py or FILE.py:ROW; configs/NAME.py is the package's own where there is none here.
        overrides: flags --config.NAME=VALUE.

    Raises:
        UserError: the file cannot be loaded, or a flag or a value is wrong.
    """
    argv = ["train", f"--config={_installed(file)}", *overrides]
    values = flags.FlagValues()
    try:
        config = config_flags.DEFINE_config_file(
            "config", None, "", flag_values=values, lock_config=True, sys_argv=argv
        )
        if rest := values(argv)[1:]:
            raise UserError(f"Unexpected argument {rest[0]!r}. Flags look like --config.seed=1.")
        _check_values(config.value)  # Also meets a file that could not be loaded.
    except UserError:
        raise
    except Exception as error:  # of any kind: the file is its user's program
        raise UserError(f"{_reason(error)}\nconfigs/sapl.py explains every field.") from error
    return config.value


def check_data(config: ConfigDict, workdir: Path) -> None:
    """UserError where a run in `workdir` would find nothing to train on; reads names only."""
    data, before = config.data, trained_on(workdir)
    if before and data.root and not Path(data.root).expanduser().exists():
        open_prepared(before["dir"])
    elif data.root:
        read_dataset(data.dataset, data.root, both_classes=True)
    elif data.prepared:
        open_prepared(data.prepared)
    else:
        raise UserError(
            "No training data was given. Set --config.data.root to the folder that holds Au/ and "
            "Tp/ (CASIA v2.0, or your own pictures with --config.data.dataset=folder)."
        )


def _installed(file: str) -> str:
    found = re.fullmatch(r"configs/(\w+\.py)(:.*)?", file)
    if not found or Path("configs", found[1]).exists() or not (_PACKAGED / found[1]).exists():
        return file
    return f"{_PACKAGED / found[1]}{found[2] or ''}"


def _reason(error: Exception) -> str:
    missing = error if isinstance(error, KeyError) else error.__context__
    if isinstance(missing, KeyError):
        return f"The configuration has no field {missing.args[0]}"
    # An error inside a configuration file arrives with the text of its traceback.
    what, _, trace = (str(error) or repr(error)).partition("\n\nTraceback")
    return f"{what} {trace.strip().splitlines()[-1]}" if trace else what


def _check_values(config: ConfigDict) -> None:
    """Refuses numbers out of range and tuples with members of another type.

    Words given as a,b, one word to flags, are split in place; CLIP's folder becomes absolute.
    """

    def value(field: str) -> Any:
        return attrgetter(field)(config)

    def check(field: str, passes: bool, expected: str) -> None:
        if not passes:
            found = value(field)
            found = ",".join(map(str, found)) if isinstance(found, tuple) else found
            shown = repr(found) if isinstance(found, str) else found
            raise UserError(f"--config.{field} is {shown}; expected {expected}.")

    for field, kind in _MEMBERS.items():
        section, name = field.split(".")
        split = (m.split(",") if isinstance(m, str) else [m] for m in value(field))
        config[section][name] = members = tuple(m for ms in split for m in ms if m != "")
        words = "whole numbers" if kind is int else "words"
        check(field, all(isinstance(m, kind) for m in members), f"{words} with commas between them")
    for field, found in flat(config.to_dict()).items():
        check(field, not isinstance(found, float) or math.isfinite(found), "a finite number")
    for field in _ABOVE_ZERO.split():
        check(field, value(field) > 0, "more than 0")
    for field in _AT_LEAST_ZERO.split():
        check(field, value(field) >= 0, "at least 0")
    EdgeOptions.from_config(config.image)
    lora, known = value("clip.lora_targets"), ("q", "k", "v", "out", "fc1", "fc2")
    each_once = 0 < len(lora) == len(set(lora) & set(known))
    check("clip.lora_targets", each_once, f"one or more of {', '.join(known)}, each once")
    if steps := config.train.num_steps:
        check("train.warmup_steps", config.train.warmup_steps < steps, "fewer than train.num_steps")
    for field, choices in CHOICES.items():
        check(field, value(field) in choices, f"one of {', '.join(choices)}")
    sigma, needed = config.model.heat_map.sigma, config.model.heat_map.colours > 0
    check("model.heat_map.sigma", sigma > 0 or not needed, "more than 0 beside colours")
    check("model.heat_map.normalize", value("model.heat_map.normalize") < 1, "less than 1")
    check("model.heat_map.tile", not 0 < value("model.heat_map.tile") < 32, "0, or 32 or more")
    even = config.train.batch_size % 2 == 0
    check("train.batch_size", even or not config.data.pairs, "an even number beside data.pairs")
    for field, most in _AT_MOST.items():
        check(field, value(field) <= most, f"at most {most}")
    clip = config.clip.pretrained  # A folder, random:NAME or a name on the hub.
    if (folder := Path(clip).expanduser()).is_dir():  # So that the run opens from others too.
        config.clip.pretrained = str(folder.absolute())
    elif not re.fullmatch(r"random:.+|\w[\w.-]*(/[\w.-]+)?", clip):
        raise UserError(f"{clip}: no such folder. Give a CLIP folder or a Hugging Face hub name.")
    profiled = re.fullmatch(r"(\d+):(\d+)|", config.train.profile_steps)
    in_order = bool(profiled and (not profiled[1] or int(profiled[1]) < int(profiled[2])))
    check("train.profile_steps", in_order, "FIRST:LAST")
    check("data.val_fraction", 0 <= config.data.val_fraction < 1, "0 to under 1")
    two = "two words, for authentic and for tampered pictures"
    check("model.class_words", len(config.model.class_words) == 2, two)
