"""TensorFlow Datasets builders: pictures in, lossless records with soft edge maps out."""

import dataclasses
import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.images import UnreadableImage, decode_image, read_bytes
from data_pipelines.listing import LABEL_NAMES, Sample
from data_pipelines.prepared import Prepared, write_metadata
from data_pipelines.preprocess import patch_edge_map, resize
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import read_ahead
from data_pipelines.readers import read_dataset
from data_pipelines.splits import pair_samples, split_samples
from sapl_jax.errors import UserError
from sapl_jax.files import sha256_of

# Per file of records: at 512 pixels about 300 MB.
_PICTURES_PER_FILE = 1024
# Filtered, but not compressed: the record is, at a third of the time that PNG's own way takes.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 0, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


@dataclasses.dataclass(eq=False)
class PictureConfig(tfds.core.BuilderConfig):
    """Settings of prepared records: `plan`, whose counts are still to come."""

    plan: Prepared = Prepared()


class _Writer(tfds.core.ExampleWriter):
    """Writes ArrayRecord files as TFDS does, but with the quick level of compression."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        """Writes serialized examples in their order to one file."""
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,zstd:1")
        for _, example in examples:
            writer.write(example)
        writer.close()


class PictureBuilder(tfds.core.ShardBasedBuilder):
    """Writes each readable picture once, with its patch-level soft edge map; never opens a mask.

    A subclass has the name of its reader. The root of the data set is TFDS's manual folder.
    Records hold: image (the resized picture, not padded, as PNG), edge_map float32 [g, g], label,
    name, original_size (height, width in pixels) and sha256 of the source file.
    Unreadable files are left out and listed in skipped.json beside the records. These are in the
    order of `_rank`, in which they are made, so no more is in memory than is being worked on.
    """

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [PictureConfig(name="512p14", description="The paper's geometry.")]
    # TFDS 4.9.10 would find this file through importlib_resources, which it does not install.
    code_path = Path(__file__)
    workers: int = len(os.sched_getaffinity(0)) + 1  # threads that make pictures, while one writes

    @property
    @abstractmethod
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """Where the files come from. Abstract, so that TFDS does not register this class."""

    def _info(self) -> tfds.core.DatasetInfo:
        grid = self.builder_config.plan.geometry.grid
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "edge_map": tfds.features.Tensor(shape=(grid, grid), dtype=np.float32),
            "label": tfds.features.ClassLabel(names=list(LABEL_NAMES)),
            "name": tfds.features.Text(),
            "original_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            "sha256": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _Writer(self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        plan = self.builder_config.plan
        self._listing = read_dataset(self.name, dl_manager.manual_dir, both_classes=True)
        split = split_samples(self._listing.samples, plan.val_fraction, plan.seed)
        self._plan = dataclasses.replace(plan, dataset=self.name, num_shared_sources=split.shared)
        self._unreadable: list[tuple[str, str]] = []
        self._counts: dict[str, dict[str, int]] = {}
        self._training = split.train
        self._numbers: dict[str, int] = {}  # of the training records, by name
        files = {}
        for name, samples in (("train", split.train), ("validation", split.validation)):
            if samples:
                examples = self._examples(name, sorted(samples, key=partial(_rank, name)))
                count = -(-len(samples) // _PICTURES_PER_FILE)
                files[name] = [partial(islice, examples, _PICTURES_PER_FILE)] * count
        return files

    def _examples(self, split: str, samples: list[Sample]) -> Iterator[tuple[str, Any]]:
        counts = self._counts[split] = dict.fromkeys(LABEL_NAMES, 0)
        found = read_ahead(self._example, samples, 4 * self.workers, threads=self.workers)
        look = {"desc": f"preparing {split}", "unit": " pictures"}
        bar = ProgressBar(zip(samples, found, strict=True), total=len(samples), **look)
        for sample, result in bar:
            if isinstance(result, UnreadableImage):
                self._unreadable.append((sample.name, str(result)))
                bar.set_postfix(skipped=len(self._unreadable))
                continue
            if split == "train":
                self._numbers[sample.name] = sum(counts.values())
            counts[LABEL_NAMES[sample.label]] += 1
            yield sample.name, result
            result.clear()  # It is written; TFDS keeps all of a file, to count them.
        lacking = [name for name in LABEL_NAMES if not counts[name]]
        if len(lacking) == 2 or (lacking and split == "train"):
            first = "; ".join(reason for _, reason in self._unreadable[:3])
            raise UserError(
                f"no readable {' or '.join(lacking)} picture for the {split} split in "
                f"{self._listing.root}: {len(self._unreadable)} files cannot be read ({first}); "
                "replace them"
            )

    def _example(self, sample: Sample) -> dict[str, Any] | UnreadableImage:
        plan = self.builder_config.plan
        try:
            data = read_bytes(sample.image)
            picture = decode_image(data, sample.image)
        except UnreadableImage as error:
            return error
        resized = resize(picture, plan.geometry)
        _, png = cv2.imencode(".png", cv2.cvtColor(resized, cv2.COLOR_RGB2BGR), _PNG)
        return {
            "image": png.tobytes(),
            "edge_map": patch_edge_map(resized, plan.geometry, plan.options),
            "label": sample.label,
            "name": sample.name,
            "original_size": np.asarray(picture.shape[:2], np.int32),
            "sha256": sha256_of(data),
        }

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        root = self._listing.root
        listed = [(p.relative_to(root).as_posix(), reason) for p, reason in self._listing.skipped]
        skipped = sorted(listed + self._unreadable)
        numbers = self._numbers
        pairs = pair_samples([sample for sample in self._training if sample.name in numbers])
        # TFDS renames this folder to its final name afterwards, so nothing here looks done before.
        prepared = dataclasses.replace(
            self._plan,
            dir=Path(self.data_path),
            counts=self._counts,
            num_skipped=len(skipped),
            pairs=[[numbers[one.name], numbers[two.name]] for one, two in pairs],
        )
        write_metadata(prepared, skipped)


def _rank(split: str, sample: Sample) -> bytes:
    """Shuffles: TFDS's order, which is the same for good."""
    return hashlib.md5(f"{split}{sample.name}".encode()).digest()


class Folder(PictureBuilder):
    """Your own pictures: authentic ones in `Au/`, tampered ones in `Tp/`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put authentic pictures into Au/ and tampered ones into Tp/ of one folder and run
      python -m data_pipelines.prepare --dataset folder --root THAT_FOLDER --output DIR
    """


class CasiaV2(PictureBuilder):
    """CASIA v2.0: 7,491 authentic and 5,123 spliced or copy-moved pictures.

    `data_pipelines.prepare` runs it and gives each root and setting a folder of its own.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    CASIA v2.0 (J. Dong, W. Wang, T. Tan, "CASIA Image Tampering Detection Evaluation Database",
    ChinaSIP 2013) is for research; the project's README.md says where it can be had. Unpack so that
    one folder holds Au/ (authentic), Tp/ (tampered) and, for evaluation only, the masks
    <stem>_gt.png in Gt/ or "CASIA 2 Groundtruth"/. Then run
      python -m data_pipelines.prepare --dataset casia_v2 --root THAT_FOLDER --output DIR
    """
