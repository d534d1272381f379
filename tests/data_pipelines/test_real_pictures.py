"""The pipeline on parts of the public research sets; skipped where they are absent."""

from itertools import islice
from pathlib import Path

import numpy as np

from data_pipelines.images import read_image, read_mask
from data_pipelines.listing import AUTHENTIC, TAMPERED
from data_pipelines.prepare import prepare
from data_pipelines.preprocess import PAPER_GEOMETRY
from data_pipelines.readers import read_dataset
from data_pipelines.record_batches import eval_batches, train_batches


def test_every_picture_and_mask_reads(real_data: Path) -> None:
    for name, folder, counts in [
        ("casia_v2", "CASIA2_subset", (160, 159, 17)),
        ("folder", "comofod_20", (20, 20, 20)),
    ]:
        listing = read_dataset(name, real_data / folder)
        masked = [sample for sample in listing.samples if sample.mask]
        assert (listing.count(AUTHENTIC), listing.count(TAMPERED), len(masked)) == counts
        assert all(read_image(sample.image).ndim == 3 for sample in listing.samples)
        assert all(set(np.unique(read_mask(sample.mask))) - {0} for sample in masked)


def test_casia_prepares_and_trains_at_full_size(real_data: Path, tmp_path: Path) -> None:
    prepared = prepare("casia_v2", real_data / "CASIA2_subset", tmp_path)
    assert (
        prepared.num_examples("train") + prepared.num_examples("validation") == 319
        and prepared.num_skipped == 0
    )
    assert prepared.counts["validation"] == {"authentic": 16, "tampered": 16}
    assert prepared.num_shared_sources == 0
    batch = next(islice(train_batches(prepared, batch_size=12, seed=0), 3, None))
    assert batch["image"].shape == (12, PAPER_GEOMETRY.canvas, PAPER_GEOMETRY.canvas, 3)
    assert batch["edge_map"].min() >= 0 and batch["edge_map"].max() <= 1
    assert not batch["edge_map"][~batch["valid"]].any()
    assert sum(b["weight"].sum() for b in eval_batches(prepared, batch_size=5)) == 32
