"""Makes an export folder: written aside, checked, and moved into place only when it is right."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from sapl_jax.errors import UserError
from sapl_jax.exporting import checking
from sapl_jax.exporting.description import describe, readme
from sapl_jax.exporting.formats import WRITERS, merged
from sapl_jax.files import write_json
from sapl_jax.inference.export_folder import FILE, refuse_foreign
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.trained import TrainedModel


def export(
    trained: TrainedModel, kind: str, output: Path, pictures: Sequence[Path]
) -> list[checking.Comparison]:
    """Writes one export and checks it against the model it was made from.

    Args:
        trained: a model in float32, LoRA attached or not.
        kind: one of WRITERS.
        output: the folder to make. An earlier export in it is replaced; anything else is kept.
        pictures: on which the export must give the model's heat maps within 1e-3.

    Returns:
        The differences found.

    Raises:
        UserError: `output` holds something else or cannot be written, the format's packages are
            absent, or the export does not give the model's heat maps. `output` is then unchanged.
    """
    refuse_foreign(output)
    plain = merged(trained)
    content = describe(plain, kind)
    with _aside(output) as folder:
        WRITERS[kind](plain, folder)
        write_json(folder / FILE, content)
        if kind in ("stablehlo", "onnx"):
            script = files("sapl_jax.exporting").joinpath("standalone.py").read_text()
            (folder / checking.STANDALONE).write_text(script)
        (folder / "README.md").write_text(readme(content, output.name))
        found = checking.compare(
            Localizer(*trained), checking.detector_of_export(folder, kind, plain), pictures
        )
        checking.require_equal(found)
    return found


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place if all goes well, and else vanishes."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise UserError(
            f"{output.parent} cannot be written: {error.strerror or error}. Give another --output."
        ) from error
    folder, old = holder / "new", holder / "old"
    try:
        folder.mkdir()
        yield folder
        # A rename puts a folder in place at once; what was there goes aside first.
        if output.exists():
            output.rename(old)
        try:
            folder.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
    except OSError as error:
        raise UserError(
            f"The export could not be written to {output}: {error.strerror or error}. Free space "
            "or choose another --output; nothing was changed."
        ) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
