"""Prepares a data set for training: records of resized pictures and soft edge maps, made once.

python -m data_pipelines.prepare --dataset casia_v2 --root PATH --output DIR
"""

import errno
import io
import os
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import cv2
import tensorflow_datasets as tfds

from data_pipelines.builders import CasiaV2, Folder, PictureBuilder, PictureConfig
from data_pipelines.prepared import METADATA, Prepared, fingerprint, open_prepared
from data_pipelines.preprocess import PAPER_GEOMETRY, Geometry
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions
from sapl_jax.errors import Parser, UserError, check_numbers, run_main
from sapl_jax.files import hold_lock

# What its user can mend, in the system's words: the record writer knows no others.
_NUMBERS = errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR
_MENDED = [os.strerror(number) for number in _NUMBERS]
BUILDERS: dict[str, type[PictureBuilder]] = {kind.name: kind for kind in (CasiaV2, Folder)}


def prepare(
    dataset: str,
    root: str | Path,
    output: str | Path | None = None,
    geometry: Geometry = PAPER_GEOMETRY,
    options: EdgeOptions = DEFAULT_OPTIONS,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    workers: int | None = None,
) -> Prepared:
    """Prepares the pictures below `root`, or reuses what an earlier call made of the same input.

    dataset: a name in BUILDERS. output: where records go, in a folder named after a fingerprint of
    the files and settings; None for TFDS's own (TFDS_DATA_DIR or ~/tensorflow_datasets). A call
    that is interrupted leaves nothing that looks done; a second process waits for the first.

    Raises UserError for a bad root (see `read_dataset`), one class only, no readable picture, an
    output folder that cannot be written, or a full disk.
    """
    listing = read_dataset(dataset, root, both_classes=True)
    mark = fingerprint(listing, geometry, options, val_fraction, seed)
    config = PictureConfig(
        name=f"{geometry.size}p{geometry.patch}-{mark}",  # part of the folder's path
        description=f"Longer side {geometry.size}, patches of {geometry.patch} pixels.",
        plan=Prepared(Path(), dataset, geometry, options, val_fraction, seed, mark),
    )
    data_dir = Path(output).expanduser() if output else Path(tfds.core.constants.DATA_DIR)
    try:
        builder = BUILDERS[dataset](data_dir=data_dir, config=config)
        folder = Path(builder.data_path)
        if (folder / METADATA).is_file():
            return replace(open_prepared(folder), reused=True)
        builder.workers = workers or builder.workers
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder.parent / ".lock", waiting_for="prepares the same data"):
            reused = (folder / METADATA).is_file()
            if not reused:
                # Killed runs leave unfinished folders beside this one, or a broken one.
                for left in folder.parent.glob(f"*incomplete*{folder.name}*"):
                    shutil.rmtree(left, ignore_errors=True)
                if folder.exists():
                    shutil.rmtree(folder)
                _build(builder, listing.root)
    except (OSError, RuntimeError) as error:  # The record writer's own is a RuntimeError.
        if not any(words in str(error) for words in _MENDED):
            raise
        raise UserError(
            f"cannot write prepared data to {data_dir}: {error}. Make room or choose another "
            "folder (--output, config.data.prepared), and run the same command again."
        ) from error
    return replace(open_prepared(folder), reused=reused)


def _build(builder: PictureBuilder, root: Path) -> None:
    tfds.disable_progress_bar()  # ours counts pictures over the whole split and shows the rate
    options = {"manual_dir": root, "try_download_gcs": False, "compute_stats": "skip"}
    download = tfds.download.DownloadConfig(**options)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the builder's own threads fill the cores
    try:
        # TFDS announces downloads that do not happen; errors are exceptions, not output.
        with redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=download, file_format="array_record")
    finally:
        cv2.setNumThreads(threads)


def main() -> None:
    """The command: flags, prepare, summary."""
    parser = Parser("sapl prepare", __doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(BUILDERS))
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--output", help="folder for the records (default: TFDS's data folder)")
    paper = PAPER_GEOMETRY
    parser.add_argument("--size", type=int, default=paper.size, help="longer side in pixels")
    parser.add_argument("--patch", type=int, default=paper.patch, help="ViT patch in pixels")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share for validation")
    parser.add_argument("--seed", type=int, default=0, help="seed of the validation split")
    parser.add_argument("--workers", type=int, help="threads (default: one more than cores)")
    flags = parser.parse_args()
    side = (1, 2**14)
    check_numbers(flags, size=side, patch=side, val_fraction=(0, 0.99), workers=(1, 1024))
    more = {"seed": flags.seed, "val_fraction": flags.val_fraction, "workers": flags.workers}
    geometry = Geometry(flags.size, flags.patch)
    print(summary(prepare(flags.dataset, flags.root, flags.output, geometry, **more)))


def summary(prepared: Prepared) -> str:
    """What a prepared folder holds, for the screen."""
    state = "was already prepared" if prepared.reused else "is prepared"
    lines = [f"{prepared.dataset} {state} in {prepared.dir}"]
    for split, counts in prepared.counts.items():
        parts = ", ".join(f"{count} {name}" for name, count in counts.items())
        lines.append(f"  {split}: {prepared.num_examples(split)} pictures ({parts})")
    if prepared.num_skipped:
        lines.append(f"  skipped: {prepared.num_skipped} files, listed in skipped.json there")
    if shared := prepared.num_shared_sources:
        lines.append(f"  {shared} validation pictures share a source with training")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
