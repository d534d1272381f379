"""The work directory of a run: its configuration, its lock, its files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from sapl_jax.errors import UserError
from sapl_jax.files import hold_lock, write_json, writing

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
LOCK_FILE = ".lock"
# Changing these continues a run; changing anything else would make it another experiment.
FREE_FIELDS = (
    "data.root", "data.prepared", "clip.pretrained", "train.num_steps", "train.epochs",
    "train.log_every", "train.eval_every", "train.checkpoint_every", "train.eval_batch_size",
    "train.max_bad_steps", "train.profile_steps", "train.remat", "train.keep",
)  # fmt: skip


@contextmanager
def open_workdir(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Creates or re-enters a work directory and holds its lock while the run lasts.

    Of several processes of one run, only the first is to open it.

    Raises:
        UserError: the directory cannot be written, another run holds it, or it has checkpoints of
            another configuration (the differences are listed). A run that never came to its first
            checkpoint leaves nothing to protect, so a mistake in it can be mended in place.
    """
    with writing(f"The work directory {workdir}", "Choose another with --workdir."):
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / LOCK_FILE).touch()
    busy = f"Another run is using {workdir}. Wait for it, stop it, or use another --workdir."
    with hold_lock(workdir / LOCK_FILE, busy=busy):
        _check_config(workdir, config)
        yield


def read_config(workdir: Path) -> ConfigDict:
    """The locked configuration a run was started with; UserError where there is none."""
    path = workdir / CONFIG_FILE
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return config_of(stored)


def config_of(stored: dict[str, Any]) -> ConfigDict:
    """The locked configuration of a JSON object, which has no tuples, where configurations do."""
    return ConfigDict(FrozenConfigDict(stored).to_dict()).lock()


def trained_on(workdir: Path) -> dict[str, str] | None:
    """The records a run was started on, {"dir": ..., "fingerprint": ...}; None for a new run."""
    if not (path := workdir / DATA_FILE).exists():
        return None
    try:
        found = json.loads(path.read_text())
        return {"dir": str(found["dir"]), "fingerprint": str(found["fingerprint"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}). Delete it to continue on the data given now."
        ) from error


def remember_config(workdir: Path, config: ConfigDict) -> None:
    """Stores the configuration, of a run that begins: a refused command changes no run."""
    content, path = config.to_dict(), workdir / CONFIG_FILE
    if path.exists() and not Path(content["data"]["root"]).expanduser().exists():
        content["data"]["root"] = read_config(workdir).data.root  # What calibrating reads.
    write_or_refuse(path, content)


def remember_data(workdir: Path, folder: Path, fingerprint: str) -> None:
    """Notes which prepared records a run is trained on."""
    content = {"dir": str(folder.absolute()), "fingerprint": fingerprint}
    write_or_refuse(workdir / DATA_FILE, content)


def _check_config(workdir: Path, config: ConfigDict) -> None:
    path = workdir / CONFIG_FILE
    if not any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*/*")):
        (workdir / DATA_FILE).unlink(missing_ok=True)
    elif path.exists():
        before, now = flat(read_config(workdir).to_dict()), flat(config.to_dict())
        changed = [
            f"config.{name}: {before.get(name)!r} there, {now.get(name)!r} now"
            for name in sorted(before.keys() | now.keys())
            if name not in FREE_FIELDS and before.get(name) != now.get(name)
        ]
        if changed:
            raise UserError(
                f"{workdir} holds a run of another configuration:\n  "
                + "\n  ".join(changed)
                + "\nUse another --workdir, or the configuration of that run to continue it."
            )


def write_or_refuse(path: Path, content: Any) -> None:
    """Writes JSON; UserError where that cannot be."""
    with writing(path, "Free space or choose another folder."):
        write_json(path, content)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by their dotted names; lists as tuples, as JSON has it."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = tuple(value) if isinstance(value, list) else value
    return found
