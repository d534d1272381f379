"""A configuration file and --config.NAME=VALUE flags, read and checked without loading JAX."""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import configs
from sapl_jax.errors import UserError
from sapl_jax.training.checks import check_values

_PACKAGED = Path(configs.__file__).parent
PAPER = str(_PACKAGED / "sapl.py")


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
        check_values(config.value)  # Also meets a file that could not be loaded.
    # A name or type that the locked configuration does not have comes up as any of these.
    except (
        flags.Error,
        AttributeError,
        KeyError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{_reason(error)}\nconfigs/sapl.py explains every field.") from error
    return config.value


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
    what, _, trace = str(error).partition("\n\nTraceback")
    return f"{what} {trace.strip().splitlines()[-1]}" if trace else what
