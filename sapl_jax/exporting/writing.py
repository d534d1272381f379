"""Makes an export folder: written aside, checked, and moved into place only when it is right."""

import dataclasses
import datetime
import inspect
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines import preprocess, soft_edges
from data_pipelines.images import read_image
from data_pipelines.preprocess import PADDING, Geometry
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import merge_lora
from sapl_jax.errors import UserError
from sapl_jax.exporting import standalone
from sapl_jax.exporting.formats import WRITERS
from sapl_jax.files import versions, write_json, writing
from sapl_jax.inference.detector import Detector
from sapl_jax.inference.export_folder import FILE, NAME, VERSION, refuse_foreign
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import TrainedModel
from sapl_jax.models.localization import heat_map_of_picture, stretched
from sapl_jax.models.sapl import with_parts

TOLERANCE = 1e-3  # largest difference of heat maps and scores, all in float32
_READMES = Path(__file__).parents[1] / "assets" / "export_readme"
_STANDALONE = "run.py"  # the file of that name in StableHLO and ONNX exports


class Comparison(NamedTuple):
    """One picture: largest absolute differences of its heat map and its score."""

    name: str
    size: tuple[int, int]
    heat_map: float
    score: float


def export(
    trained: TrainedModel, kind: str, output: Path, pictures: Sequence[Path]
) -> list[Comparison]:
    """Writes one export, checks it against its model, and returns the differences found.

    Args:
        trained: a model in float32, LoRA attached or not.
        kind: one of WRITERS.
        output: the folder to make. An earlier export in it is replaced; anything else is kept.
        pictures: on which the export must give the model's heat maps within TOLERANCE.

    Raises:
        UserError: `output` holds something else or cannot be written, the format's packages are
            absent, or the export does not give the model's heat maps. `output` is then unchanged.
    """
    refuse_foreign(output)
    plain = trained._replace(model=with_parts(trained.model, clip=merge_lora(trained.model.clip)))
    content = describe(plain, kind)
    # Else float32 products are of fewer bits on GPUs and TPUs, and merged weights round otherwise.
    with _aside(output) as folder, jax.default_matmul_precision("highest"):
        WRITERS[kind](plain, folder)
        write_json(folder / FILE, content)
        if kind in ("stablehlo", "onnx"):
            (folder / _STANDALONE).write_text(_script())
        (folder / "README.md").write_text(readme(content, output.name))
        # Without tiles, which are this package's way with a map, not the network's.
        expected: Any = Localizer(*trained, tile=0)
        exported: Any = detector_of_export(folder, kind, plain)
        expected.level = exported.level = 0.0  # Stretched maps would have larger differences.
        return compare(expected, exported, pictures)


def describe(trained: TrainedModel, kind: str) -> dict[str, Any]:
    """The content of export.json; kind: "orbax", "stablehlo", "onnx" or "huggingface"."""
    config, clip = trained.config.copy_and_resolve_references(), trained.model.clip
    # Where pictures and weights lay on the trainer's machine is the trainer's own business.
    config.data.root = config.data.prepared = ""
    config.clip.pretrained = _without_folders(config.clip.pretrained)
    source = {key: value for key, value in trained.source.items() if key != "weights"}
    source["clip"] = {**source["clip"], "name": _without_folders(source["clip"]["name"])}
    geometry = Geometry(config.image.size, clip.config.vision.patch_size)
    preprocessing = {"patch": geometry.patch, "canvas": geometry.canvas, "padding": list(PADDING)}
    return {
        "format": NAME,
        "format_version": VERSION,
        "kind": kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": source,
        "preprocessing": config.image.to_dict() | preprocessing,
        "heat_map": config.model.heat_map.to_dict(),
        "clip": dataclasses.asdict(clip.config),
        # Prompts hold each word's ids with EOT behind them, more than once behind a shorter word.
        "class_ids": [
            list(itertools.takewhile(lambda i: i != clip.eot_id, ids))
            for ids in trained.model.prompts.class_ids
        ],
        "config": config.to_dict(),
    }


def _without_folders(name: str) -> str:
    """The last part of a folder's path; hub names, which are relative, stay whole."""
    prefix = "random:" if name.startswith("random:") else ""
    path = Path(name.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else name


def readme(description: dict[str, Any], folder_name: str) -> str:
    """Markdown for an export folder, from its description and its name."""
    options, kind = description["preprocessing"], description["kind"]
    grid = options["canvas"] // options["patch"]
    text = (_READMES / f"{kind}.md").read_text()
    return text.format(
        kind=kind,
        checkpoint=description["source"]["checkpoint"],
        clip=description["source"]["clip"]["name"],
        folder=folder_name,
        **options,
        grid=grid,
        cells=grid * (2 if description["config"]["model"]["test_views"] else 1),
        jax=description["versions"]["jax"],
    )


def _script() -> str:
    """standalone.py with the sources of what it imports of this project in the imports' place."""
    parts: tuple[Any, ...] = (soft_edges, preprocess, heat_map_of_picture, stretched)
    copied = "\n\n".join(["UserError = ValueError", *map(inspect.getsource, parts)])
    head, mark, tail = inspect.getsource(standalone).partition("Network = ")
    ours = re.compile(r"^from (data_pipelines|sapl_jax)\S* import (\([^)]*\)|.*)\n", re.MULTILINE)
    return ours.sub("", f"{head}{copied}\n\n{mark}{tail}")


def detector_of_export(folder: Path, kind: str, trained: TrainedModel) -> Detector:
    """An export as its user gets it; `trained` lends huggingface its prompts."""
    if kind == "orbax":
        return Localizer.load(folder, dtype="float32", tile=0)
    if kind == "huggingface":
        model = with_parts(trained.model, clip=load_clip(folder))
        return Localizer(*trained._replace(model=model), tile=0)
    script: dict[str, Any] = {"__name__": "sapl_export_run"}
    exec((folder / _STANDALONE).read_text(), script)  # An import would leave its cache there.
    return script["Model"](folder)


def compare(expected: Detector, exported: Detector, pictures: Sequence[Path]) -> list[Comparison]:
    """Both on every picture.

    Raises:
        UserError: a picture cannot be read, or a difference is over TOLERANCE or not a number.
    """
    found = []
    for path in pictures:
        image = read_image(path)
        # One at a time: a padded batch would cost several times the arithmetic. By position,
        # since what run.py gives has no names.
        one, other = expected.analyse([image])[0], exported.analyse([image])[0]
        difference = float(np.max(np.abs(one[1] - other[1])))
        found.append(Comparison(path.name, image.shape[:2], difference, abs(one[0] - other[0])))
    if wrong := [c for c in found if not max(c.heat_map, c.score) <= TOLERANCE]:
        shown = "; ".join(f"{c.name}: map {c.heat_map:.2g}, score {c.score:.2g}" for c in wrong)
        raise UserError(
            f"The export differs from the checkpoint by more than {TOLERANCE:g} ({shown}). It was "
            "not kept. Please report this with the versions in the run's folder."
        )
    return found


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place if all goes well, and else vanishes."""
    with writing(output, "Free space or give another --output; nothing was changed."):
        output.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
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
        finally:
            shutil.rmtree(holder, ignore_errors=True)
