"""Finds a CLIP in a folder or at a pinned revision of the hub, and reads it now or later."""

import dataclasses
import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.config import BUILT_IN, LoRAConfig, read_config
from sapl_jax.clip.model import CLIP, RANDOM, CLIPSource, add_lora
from sapl_jax.clip.weight_files import FORMATS
from sapl_jax.clip.weights import check_fit, fill
from sapl_jax.errors import UserError
from sapl_jax.files import file_sha256

_Opened = tuple[CLIP, Callable[[], None]]  # shapes, and what gives them their values
_LOG = logging.getLogger(__name__)
_LFS_POINTER = b"version https://git-lfs"

# Commits of OpenAI's repositories, so that a later change of the hub changes no experiment.
PINNED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
}


def _download(name: str, revision: str | None) -> tuple[Path, Path, str]:
    """(config.json, weights, commit) of a hub name, the weights in the preferred format it has.

    Files already in the Hugging Face cache are not fetched again, so it works offline after the
    first time. UserError: no such name or revision, no access, no network, or no weights.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    revision = revision or PINNED.get(name, "main")

    def fetch(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))

    how = (
        "Check the name and the network, or download it on a machine that has network with "
        f"`hf download {name} --revision {revision} --local-dir FOLDER` and give FOLDER instead."
    )
    try:
        _check_network(name, revision)
        config = fetch("config.json")
        for file in FORMATS:
            with suppress(EntryNotFoundError):  # Also raised offline, where others may be cached.
                weights = fetch(file)
                # A cached file lies in .../snapshots/<commit>/<file>.
                return config, weights, weights.parent.name
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} at revision {revision} is neither a folder nor available from the Hugging "
            f"Face hub: {reason} {how}"
        ) from error
    raise UserError(
        f"{name} at revision {revision}: found none of {', '.join(FORMATS)} on the hub or in its "
        f"cache. {how}"
    )


def _check_network(name: str, revision: str) -> None:
    """OSError at once where the hub is needed and its address is unknown to this machine.

    The hub's library would retry for half a minute. A proxy resolves names itself.
    """
    import huggingface_hub
    from huggingface_hub import constants

    cached = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str) or urllib.request.getproxies():
        return
    host = urllib.parse.urlsplit(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"no network: the address of {host} cannot be resolved.") from error


def load_clip(name_or_folder: str | Path, **options: Any) -> CLIP:
    """A CLIP with the weights of a Hugging Face folder or hub name; arguments as of `open_clip`."""
    clip, read = open_clip(name_or_folder, **options)
    read()
    return clip


def open_clip(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    lora: LoRAConfig | None = None,
    seed: int = 0,
) -> _Opened:
    """A CLIP whose frozen weights are shapes alone, and what reads them; they fit, that is checked.

    So programs can be compiled while weights are read, in another thread. LoRA is there at once.
    What reads them is called once; it raises UserError for contents that are damaged. (A msgpack
    file's are in the host's memory from the start.)

    Args:
        name_or_folder: a folder with `config.json` and weights; a hub name such as
            "openai/clip-vit-large-patch14-336"; or "random:" and a folder or a built-in name
            (e.g. "random:vit-large-patch14-336") for seeded random weights of that configuration.
        revision: hub commit or branch; None: the pinned commit of OpenAI's models, else "main".
        dtype: compute dtype, and storage dtype of the frozen weights: float32 or bfloat16.
        lora: LoRA to attach to the vision tower, float32 whatever `dtype`.
        seed: of LoRA's initialisation and of random weights.

    Raises:
        UserError: nothing found, files damaged, or weights that do not fit the configuration.
    """
    name = str(name_or_folder)
    dtype = jnp.dtype(dtype)
    if name.startswith(RANDOM):
        clip, read = _random(name, dtype, seed)
    else:
        clip, read = _stored(name, revision, dtype)
    if lora is not None:
        add_lora(clip, lora, seed)
    return clip, read


def _random(name: str, dtype: jnp.dtype, seed: int) -> _Opened:
    folder = Path(name.removeprefix(RANDOM))
    built_in = str(folder).removeprefix("openai/clip-")
    if not folder.is_dir() and built_in not in BUILT_IN:
        raise UserError(
            f"{name}: found neither a folder nor a built-in configuration of that name. "
            f"Built in: {', '.join(BUILT_IN)}."
        )
    config = read_config(folder / "config.json") if folder.is_dir() else BUILT_IN[built_in]
    clip = nnx.eval_shape(lambda: CLIP(config, CLIPSource(name), dtype, None))

    def read() -> None:
        drawn = nnx.jit(lambda: CLIP(config, clip.source, dtype, nnx.Rngs(seed)))()
        if clip.text.kept is not None:
            drawn.text.keep(clip.text.kept)
        nnx.update(clip, nnx.state(drawn))
        _LOG.info("CLIP %s: random weights, seed %d", name, seed)

    return clip, read


def _stored(name: str, revision: str | None, dtype: jnp.dtype) -> _Opened:
    folder = Path(name)
    if folder.is_dir():
        config_path, weights_path, commit = folder / "config.json", _weights_of(folder), None
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith("."):
        config_path, weights_path, commit = _download(name, revision)
    else:
        raise UserError(f"{name}: no such folder. Give a CLIP folder or a Hugging Face hub name.")
    config = read_config(config_path)
    with weights_path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(
                f"{weights_path}: this is a Git LFS pointer, not the weights. Run `git lfs pull` "
                "in that folder, or download the model with `hf download`."
            )
    style, read_file = FORMATS[weights_path.name]
    tensors = read_file(weights_path)
    source = CLIPSource(name, commit, weights_path.name)
    clip = nnx.eval_shape(lambda: CLIP(config, source, dtype, None))
    check_fit(clip, tensors, style, str(weights_path))

    def read() -> None:
        with ThreadPoolExecutor(1) as pool:  # The file is hashed while it is read.
            sha256 = pool.submit(file_sha256, weights_path)
            fill(clip, tensors, style)
        clip.source = dataclasses.replace(source, sha256=sha256.result())
        found = (source.file, clip.source.sha256)
        _LOG.info("CLIP %s, revision %s: %s, sha256 %s", name, commit or "-", *found)

    return clip, read


def _weights_of(folder: Path) -> Path:
    for file in FORMATS:
        if (folder / file).is_file():
            return folder / file
    if sharded := sorted(path.name for path in folder.glob("*.index.json")):
        raise UserError(
            f"{folder}: the weights are split over several files ({sharded[0]}), which this reader "
            "does not join. Save them as one file: "
            "model.save_pretrained(folder, max_shard_size='100GB')."
        )
    raise UserError(
        f"{folder}: found no CLIP weights, expected one of {', '.join(FORMATS)}. "
        "Download the whole model folder from the Hugging Face hub."
    )
