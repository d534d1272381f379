"""Fetches CLIP files from the Hugging Face hub at pinned revisions."""

import socket
import urllib.parse
import urllib.request
from pathlib import Path

from sapl_jax.errors import UserError

# Commits of OpenAI's repositories, so that a later change of the hub changes no experiment.
PINNED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
}


def download(name: str, revision: str | None, files: list[str]) -> tuple[Path, Path, str]:
    """Local paths of `config.json` and of the first of `files` that the repository has.

    Files already in the Hugging Face cache are not fetched again, so it works offline after the
    first time.

    Args:
        name: hub name. revision: commit or branch, None for the pinned one, else "main".
        files: weight files in order of preference.

    Returns:
        (config.json, weights, commit).

    Raises:
        UserError: no such name or revision, no access, no network, or none of the files.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    revision = revision or PINNED.get(name, "main")

    def fetch(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))

    try:
        _check_network(name, revision)
        config = fetch("config.json")
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise _unavailable(name, revision, error) from error
    absent: Exception | None = None
    for file in files:
        try:
            weights = fetch(file)
        except EntryNotFoundError as error:  # also raised offline, where a later file may be cached
            absent = error
            continue
        except (OSError, HfHubHTTPError, ValueError) as error:
            raise _unavailable(name, revision, error) from error
        # A cached file lies in .../snapshots/<commit>/<file>.
        return config, weights, weights.parent.name
    raise UserError(
        f"{name} at revision {revision}: found none of {', '.join(files)} on the hub or in its "
        f"cache. {_how_to_get(name, revision)}"
    ) from absent


def _check_network(name: str, revision: str) -> None:
    """OSError at once where the hub is needed and its address is unknown to this machine.

    The hub's library would retry for most of a minute. A proxy resolves names itself.
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


def _unavailable(name: str, revision: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"{name} at revision {revision} is neither a folder nor available from the Hugging Face "
        f"hub: {reason} {_how_to_get(name, revision)}"
    )


def _how_to_get(name: str, revision: str) -> str:
    return (
        "Check the name and the network, or download it on a machine that has network with "
        f"`hf download {name} --revision {revision} --local-dir FOLDER` and give FOLDER instead."
    )
