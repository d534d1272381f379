"""Preparing: lossless records, what is skipped, reuse, interruptions, and the command."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.hashing import Hasher

from configs import sapl
from data_pipelines.folder_readers import casia_sources
from data_pipelines.images import read_bytes, read_image
from data_pipelines.listing import AUTHENTIC, TAMPERED
from data_pipelines.prepare import prepare
from data_pipelines.prepared import Prepared, fingerprint, open_prepared
from data_pipelines.preprocess import Geometry, patch_edge_map, resize
from data_pipelines.readers import read_dataset
from data_pipelines.record_batches import eval_batches
from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions
from sapl_jax.errors import UserError
from sapl_jax.files import sha256_of
from tests.data_pipelines.picture_trees import SMALL, make_casia

REPOSITORY = Path(__file__).resolve().parents[2]


def records(prepared: Prepared, split: str = "train") -> list[dict]:
    source = tfds.builder_from_directory(str(prepared.dir)).as_data_source(split)
    return [source[n] for n in range(len(source))]


def test_records_hold_the_resized_pixels_exactly(
    small_prepared: Prepared, casia_root: Path
) -> None:
    suffixes = set()
    for record in records(small_prepared):
        path = casia_root / record["name"].decode()
        suffixes.add(path.suffix)
        picture = read_image(path)
        resized = resize(picture, SMALL)
        np.testing.assert_array_equal(record["image"], resized)
        np.testing.assert_array_equal(record["edge_map"], patch_edge_map(resized, SMALL))
        assert record["label"] == (TAMPERED if path.parent.name == "Tp" else AUTHENTIC)
        assert tuple(record["original_size"]) == picture.shape[:2]
        assert record["sha256"].decode() == sha256_of(read_bytes(path))
    assert suffixes == {".jpg", ".bmp", ".tif"}


def test_corrupt_and_foreign_files_are_skipped_and_listed(small_prepared: Prepared) -> None:
    rows = json.loads((small_prepared.dir / "skipped.json").read_text())
    skipped = {row["file"]: row["reason"] for row in rows}
    assert small_prepared.num_skipped == 2
    assert "truncated JPEG" in skipped["Au/Au_ani_00099.jpg"]
    assert "not a picture file" in skipped["Tp/notes.db"]


def test_splits_are_disjoint_complete_and_stratified(small_prepared: Prepared) -> None:
    names = {
        split: {r["name"] for r in records(small_prepared, split)}
        for split in ("train", "validation")
    }
    assert not names["train"] & names["validation"]
    assert len(names["train"]) == small_prepared.num_examples("train")
    assert len(names["validation"]) == small_prepared.num_examples("validation")
    assert small_prepared.num_examples("train") + small_prepared.num_examples("validation") == 40
    assert small_prepared.counts["validation"]["tampered"] == 4
    assert 4 <= small_prepared.counts["validation"]["authentic"] <= 6
    assert small_prepared.num_shared_sources == 0


def test_second_call_reuses_the_records(
    small_prepared: Prepared, casia_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = small_prepared.dir.parents[2]
    monkeypatch.setattr("data_pipelines.prepare._build", lambda *_: pytest.fail("built again"))
    again = prepare("casia_v2", casia_root, output, SMALL, val_fraction=0.25, seed=3)
    assert again == small_prepared and again.reused and not small_prepared.reused


def test_training_finds_what_the_command_prepared(casia_root: Path) -> None:
    listing = read_dataset("casia_v2", casia_root)
    options = EdgeOptions.from_config(sapl.get_config().image)
    marks = {fingerprint(listing, SMALL, found, 0.1, 0) for found in (DEFAULT_OPTIONS, options)}
    assert len(marks) == 1


def test_pairs_are_numbers_of_records_of_one_source(small_prepared: Prepared) -> None:
    names = [record["name"].decode() for record in records(small_prepared)]
    tampered = [name for name in names if name.startswith("Tp")]
    assert [names[two] for _, two in small_prepared.pairs] == sorted(tampered)
    for one, two in small_prepared.pairs:
        assert casia_sources(Path(names[one]).stem)[0] in casia_sources(Path(names[two]).stem)


def test_other_settings_or_files_never_share_a_folder(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 4, 4)
    output = tmp_path / "out"

    def folder(geometry: Geometry = SMALL, options: EdgeOptions = DEFAULT_OPTIONS, **more) -> Path:
        return prepare("casia_v2", root, output, geometry, options, **more).dir

    first = folder()
    assert folder() == first
    others = {
        folder(Geometry(64, 16)),
        folder(options=EdgeOptions(kappa=1.0)),
        folder(seed=1),
        folder(val_fraction=0.5),
    }
    (root / "Au" / "Au_ani_00000.bmp").unlink()
    others.add(folder())
    assert len(others) == 5 and first not in others


def test_number_of_threads_does_not_change_the_records(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 6, 6)
    one, four = (prepare("casia_v2", root, tmp_path / str(n), SMALL, workers=n) for n in (1, 4))
    for path in one.dir.iterdir():
        if ".array_record" in path.name:
            assert path.read_bytes() == (four.dir / path.name).read_bytes()
    assert one.counts == four.counts


def test_files_after_the_first_go_on_in_an_order_that_is_fixed_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_casia(tmp_path / "root", 8, 8)
    for path in sorted(root.glob("*/*"))[:5]:
        path.write_bytes(b"rubbish")
    one = prepare("casia_v2", root, tmp_path / "one", SMALL)
    monkeypatch.setattr("data_pipelines.builders._PICTURES_PER_FILE", 3)
    many = prepare("casia_v2", root, tmp_path / "many", SMALL)
    assert [len(list(p.dir.glob("*train.array_record*"))) for p in (one, many)] == [1, 5]
    names = [record["name"] for record in records(many)]
    assert names == sorted(names, key=Hasher("train").hash_key)  # as TFDS's own shuffling
    assert names == [record["name"] for record in records(one)]
    for batch, same in zip(
        *(eval_batches(p, batch_size=4, split="train") for p in (one, many)), strict=True
    ):
        np.testing.assert_array_equal(batch["image"], same["image"])


def test_preparing_imports_no_tensorflow(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 3, 3)
    code = """
import sys
from data_pipelines.prepare import prepare
prepare("casia_v2", sys.argv[1], sys.argv[2])
sys.exit("tensorflow" in sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code, root, tmp_path / "out"],
        cwd=REPOSITORY,
        check=True,
        timeout=120,
    )


def test_folder_data_set_keeps_states_of_one_scene_together(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "casia", 8, 8)
    for n, path in enumerate(sorted((root / "Au").iterdir())):
        path.rename(path.with_name(f"scene.{n}{path.suffix}"))
    for n, path in enumerate(sorted((root / "Tp").iterdir())):
        path.rename(path.with_name(f"scene.{n}{path.suffix}"))
    prepared = prepare("folder", root, tmp_path / "out", SMALL, val_fraction=0.25)
    stems = {
        split: {Path(r["name"].decode()).stem for r in records(prepared, split)}
        for split in ("train", "validation")
    }
    assert len(stems["validation"]) == 2 and not stems["train"] & stems["validation"]


def test_no_validation_split_where_none_is_wanted(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 3, 3)
    prepared = prepare("casia_v2", root, tmp_path / "o", SMALL, val_fraction=0)
    assert (prepared.num_examples("train"), prepared.num_examples("validation")) == (6, 0)


def test_class_without_a_readable_picture_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 3, 3)
    for path in (root / "Tp").iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"no readable tampered picture.*not a JPEG"):
        prepare("casia_v2", root, tmp_path / "out", SMALL)
    assert not list((tmp_path / "out").rglob("*array_record*"))
    assert not list((tmp_path / "out").rglob("prepared.json"))


def test_files_that_no_record_can_name_are_skipped_and_listed(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 3, 3)
    (root / "Au" / "Au_ani_00007.jpg").symlink_to(root / "nothing.jpg")
    shutil.copy(root / "Au" / "Au_ani_00001.jpg", root / "Au" / "\udcff.jpg")
    prepared = prepare("casia_v2", root, tmp_path / "out", SMALL)
    assert prepared.num_examples("train") + prepared.num_examples("validation") == 6
    rows = json.loads((prepared.dir / "skipped.json").read_text())
    assert [row["file"] for row in rows] == ["Au/Au_ani_00007.jpg", "Au/\\xff.jpg"]


def test_output_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 2, 2)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write prepared data"):
        prepare("casia_v2", root, tmp_path / "out", SMALL)


def test_killed_run_leaves_nothing_that_looks_done_and_runs_again(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 8, 8)
    code = """
import os, signal, sys
from data_pipelines import builders
from data_pipelines.prepare import prepare
from data_pipelines.preprocess import Geometry
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
builders.write_metadata = die  # the last thing before TFDS renames the folder
prepare("casia_v2", sys.argv[1], sys.argv[2], Geometry(64, 14))
"""
    output = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", code, root, output], cwd=REPOSITORY, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = list(output.rglob("*.array_record*"))
    assert left and all("incomplete" in str(path) for path in left)
    prepared = prepare("casia_v2", root, output, SMALL)
    assert prepared.num_examples("train") + prepared.num_examples("validation") == 16
    assert not [path for path in output.rglob("*") if "incomplete" in path.name]


def test_damaged_records_are_refused_with_what_to_do(
    small_prepared: Prepared, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_prepared.dir, copy)
    assert open_prepared(copy).counts == small_prepared.counts
    shard = next(copy.glob("*train.array_record*"))
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(UserError, match=r"records are damaged.*prepare the data again"):
        open_prepared(copy)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_prepared(copy)
    (copy / "prepared.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        open_prepared(copy)
    with pytest.raises(UserError, match="no prepared data in"):
        open_prepared(tmp_path)


def test_command_prepares_once_even_when_started_twice(casia_root: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "data_pipelines.prepare",
        "--dataset",
        "casia_v2",
        "--root",
        str(casia_root),
        "--output",
        str(tmp_path),
        "--size",
        "64",
        "--val-fraction",
        "0.25",
    ]
    started = [
        subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert all("skipped: 2 files" in out and "Traceback" not in err for out, err in outputs)
    assert sum("preparing train" in err for _, err in outputs) == 1
    assert sum("was already prepared" in out for out, _ in outputs) == 1
    folders = [path.parent for path in tmp_path.rglob("prepared.json")]
    assert len(folders) == 1
    assert json.loads((folders[0] / "prepared.json").read_text())["dataset"] == "casia_v2"


def test_command_shows_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_pipelines.prepare",
            "--dataset",
            "folder",
            "--root",
            str(tmp_path / "nothing"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: no data set at")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to finalize split: write() failed: No space left on device"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_a_disk_that_fills_under_the_record_writer_is_a_clear_error(
    casia_root, tmp_path, monkeypatch, error
) -> None:
    def full(builder, **_) -> None:
        raise error

    monkeypatch.setattr("data_pipelines.builders.CasiaV2.download_and_prepare", full)
    with pytest.raises(UserError, match="No space left.*same command"):
        prepare("casia_v2", casia_root, tmp_path, SMALL, val_fraction=0.25)

    def broken(builder, **_) -> None:
        raise RuntimeError("a mistake in the builder")

    monkeypatch.setattr("data_pipelines.builders.CasiaV2.download_and_prepare", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        prepare("casia_v2", casia_root, tmp_path, SMALL, val_fraction=0.25)


def test_tfds_finds_the_papers_geometry_by_itself(casia_root: Path, tmp_path: Path) -> None:
    builder = tfds.builder("casia_v2", data_dir=tmp_path)
    options = {"manual_dir": casia_root, "try_download_gcs": False, "compute_stats": "skip"}
    download = tfds.download.DownloadConfig(**options)
    builder.download_and_prepare(download_config=download, file_format="array_record")
    assert builder.builder_config.name == "512p14"
    record = builder.as_data_source(split="train")[0]
    assert max(record["image"].shape) == 512 and record["edge_map"].shape == (37, 37)
