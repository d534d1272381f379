"""The input pipeline: fixed by seed and step, sharded by process, flips that fit together."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import record_batches
from data_pipelines.images import read_image, resave
from data_pipelines.listing import AUTHENTIC, TAMPERED
from data_pipelines.prepared import Prepared, open_prepared
from data_pipelines.preprocess import Geometry, pad, preprocess
from data_pipelines.record_batches import (
    Batch,
    epoch_plan,
    eval_batches,
    jpeg_qualities,
    train_batches,
)
from sapl_jax.errors import UserError
from sapl_jax.train import record_data
from tests.data_pipelines.picture_trees import SMALL
from tests.tiny import tiny_configuration


def take(batches, count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def join(batches: tuple[Batch, ...]) -> Batch:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_batch_has_the_shapes_and_types_of_the_interface(small_prepared: Prepared) -> None:
    (batch,) = take(train_batches(small_prepared, batch_size=3, seed=0), 1)
    found = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert found == {
        "image": ((3, 70, 70, 3), "uint8"),
        "edge_map": ((3, 5, 5), "float32"),
        "valid": ((3, 5, 5), "bool"),
        "label": ((3,), "int32"),
    }


def test_examples_are_what_preprocessing_makes_of_the_pictures(
    small_prepared: Prepared, casia_root: Path
) -> None:
    source = tfds.builder_from_directory(str(small_prepared.dir)).as_data_source("train")
    (batch,) = eval_batches(
        small_prepared, split="train", batch_size=small_prepared.num_examples("train")
    )
    for n in range(len(source)):
        expected = preprocess(read_image(casia_root / source[n]["name"].decode()), SMALL)
        np.testing.assert_array_equal(batch["image"][n], expected.image)
        np.testing.assert_array_equal(batch["edge_map"][n], expected.edge_map)
        np.testing.assert_array_equal(batch["valid"][n], expected.valid)
        assert batch["label"][n] == source[n]["label"]


@pytest.mark.parametrize("cores", [1, 3])
def test_same_seed_gives_the_same_batches_and_another_seed_others(
    small_prepared: Prepared, monkeypatch, cores: int
) -> None:
    first = take(train_batches(small_prepared, batch_size=4, seed=7), 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    assert_same(first, take(train_batches(small_prepared, batch_size=4, seed=7), 12))
    other = take(train_batches(small_prepared, batch_size=4, seed=8), 12)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("cores", "batch_size", "size", "depth"),
    # 2 GiB are 27 of the paper's batches; the last are of 1.2 GB each.
    [
        (2, 96, 518, 4),
        (256, 96, 518, 27),
        (256, 4, 70, 258),
        (256, 1024, 630, 4),
        (1, 1024, 630, 3),
    ],
)
def test_batches_read_ahead_are_bounded_by_memory_too(
    small_prepared: Prepared, monkeypatch, cores: int, batch_size: int, size: int, depth: int
) -> None:
    asked = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(
        record_batches, "read_ahead", lambda _, __, depth, *, threads: asked.append(depth)
    )
    prepared = replace(small_prepared, geometry=Geometry(size, 14))
    train_batches(prepared, batch_size=batch_size, seed=0)
    eval_batches(prepared, batch_size=batch_size)
    assert asked == [depth, depth]


@pytest.mark.parametrize("ahead", [1, 10**6])
def test_batches_are_the_same_whatever_is_read_ahead(
    small_prepared: Prepared, monkeypatch, ahead: int
) -> None:
    first = take(train_batches(small_prepared, batch_size=4, seed=7), 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    monkeypatch.setattr(record_batches, "_AHEAD", ahead)
    assert_same(first, take(train_batches(small_prepared, batch_size=4, seed=7), 12))


@pytest.mark.parametrize("step", [1, 7, 8, 25])
def test_starting_at_a_step_equals_continuing(small_prepared: Prepared, step: int) -> None:
    whole = take(train_batches(small_prepared, batch_size=4, seed=7), step + 3)
    assert_same(
        whole[step:], take(train_batches(small_prepared, batch_size=4, seed=7, start_step=step), 3)
    )


def test_processes_share_the_batches_of_one_process(small_prepared: Prepared) -> None:
    single = take(train_batches(small_prepared, batch_size=6, seed=1), 10)
    for count in (2, 3):
        parts = [
            take(
                train_batches(
                    small_prepared,
                    batch_size=6 // count,
                    seed=1,
                    process_index=index,
                    process_count=count,
                ),
                10,
            )
            for index in range(count)
        ]
        assert_same(single, [join(batches) for batches in zip(*parts, strict=True)])


def test_each_epoch_holds_every_example_once_in_another_order(small_prepared: Prepared) -> None:
    total = small_prepared.num_examples("train")
    batches = train_batches(small_prepared, batch_size=total, seed=0, horizontal_flip=False)
    first, second = take(batches, 2)

    def pictures(batch: Batch) -> list[bytes]:
        return [image.tobytes() for image in batch["image"]]

    assert len(set(pictures(first))) == total
    assert set(pictures(first)) == set(pictures(second))
    assert pictures(first) != pictures(second)


def test_flips_turn_picture_edges_and_valid_patches_together(small_prepared: Prepared) -> None:
    plain_of = {"horizontal_flip": False, "vertical_flip": False}
    both_of = {"horizontal_flip": True, "vertical_flip": True}
    total, seed = small_prepared.num_examples("train"), 4
    (plain,) = take(train_batches(small_prepared, batch_size=total, seed=seed, **plain_of), 1)
    (both,) = take(train_batches(small_prepared, batch_size=total, seed=seed, **both_of), 1)
    order, coins = epoch_plan(total, seed, 0)
    kinds = set()
    for n, index in enumerate(order):
        kinds.add(tuple(coins[n]))
        axes = [axis for axis in (0, 1) if coins[n][axis]]
        for key in ("image", "edge_map", "valid"):
            np.testing.assert_array_equal(both[key][n], np.flip(plain[key][n], axes), str(index))
    assert len(kinds) == 4
    assert not plain["valid"].all()


def test_pairs_follow_each_other_turned_alike(small_prepared: Prepared) -> None:
    (whole,) = eval_batches(
        small_prepared, split="train", batch_size=small_prepared.num_examples("train")
    )
    total = 2 * len(small_prepared.pairs)
    plan = {"seed": 5, "pairs": True, "vertical_flip": True}
    (batch,) = take(train_batches(small_prepared, batch_size=total, **plan), 1)
    order, coins = epoch_plan(total // 2, 5, 0)
    assert {tuple(pair) for pair in batch["label"].reshape(-1, 2)} == {(AUTHENTIC, TAMPERED)}
    for n, pair in enumerate(order):
        axes = [axis for axis in (0, 1) if coins[n][axis]]
        for member, record in enumerate(small_prepared.pairs[pair]):
            expected = np.flip(whole["image"][record], axes)
            np.testing.assert_array_equal(batch["image"][2 * n + member], expected)
    halves = [
        take(
            train_batches(small_prepared, batch_size=2, process_index=p, process_count=2, **plan), 5
        )
        for p in range(2)
    ]
    single = take(train_batches(small_prepared, batch_size=4, **plan), 5)
    assert_same(single, [join(parts) for parts in zip(*halves, strict=True)])


def test_pairs_are_saved_alike(small_prepared: Prepared) -> None:
    plan = {"batch_size": 2 * len(small_prepared.pairs), "seed": 5, "pairs": True}
    plain, again = (
        take(train_batches(small_prepared, **plan, jpeg_share=share), 1)[0] for share in (0.0, 0.5)
    )
    saved = (plain["image"] != again["image"]).any(axis=(1, 2, 3)).reshape(-1, 2)
    assert 0 < saved.mean() < 1
    np.testing.assert_array_equal(saved[:, 0], saved[:, 1])


def test_pairs_are_refused_where_there_are_none_or_batches_are_odd(
    small_prepared: Prepared,
) -> None:
    with pytest.raises(UserError, match="batch size 3 per process: data.pairs takes even ones"):
        next(train_batches(small_prepared, batch_size=3, seed=0, pairs=True))
    config = tiny_configuration()
    config.data.pairs = True
    with pytest.raises(UserError, match="no tampered picture with an authentic one"):
        record_data(replace(small_prepared, pairs=[]), config)


def test_flips_are_fair_and_differ_between_epochs() -> None:
    plans = [epoch_plan(1000, 0, epoch) for epoch in range(5)]
    share = np.mean([coins for _, coins in plans], axis=(0, 1))
    assert (np.abs(share - 0.5) < 0.03).all()
    assert not np.array_equal(plans[0][1], plans[1][1])
    assert not np.array_equal(plans[0][0], plans[1][0])


def test_order_is_fixed_for_good() -> None:
    order, coins = epoch_plan(8, 0, 1)
    assert order.tolist() == [5, 3, 7, 2, 4, 1, 0, 6]
    assert coins[:, 1].tolist() == [0, 1, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evaluation_shows_every_example_once_across_processes(
    small_prepared: Prepared, count: int
) -> None:
    parts = [
        list(eval_batches(small_prepared, batch_size=2, process_index=index, process_count=count))
        for index in range(count)
    ]
    assert len({len(part) for part in parts}) == 1
    kept = [
        batch["image"][n].tobytes()
        for part in parts
        for batch in part
        for n in range(2)
        if batch["weight"][n] == 1
    ]
    assert len(kept) == small_prepared.num_examples("validation") == len(set(kept))
    padding = [batch for part in parts for batch in part if (batch["weight"] == 0).any()]
    assert all(batch["valid"].any(axis=(1, 2)).all() for batch in padding)


def test_records_damaged_inside_are_a_user_error(small_prepared: Prepared, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_prepared.dir, copy)
    shard = next(copy.glob("*train.array_record*"))
    data = bytearray(shard.read_bytes())
    for at in range(len(data) // 10, len(data) * 9 // 10, 97):
        data[at] ^= 0x55
    shard.write_bytes(data)
    with pytest.raises(UserError, match="prepare the data again"):
        take(train_batches(open_prepared(copy), batch_size=4, seed=0), 10)


def test_an_empty_split_has_no_batches(small_prepared: Prepared) -> None:
    assert list(eval_batches(small_prepared, batch_size=2, split="test")) == []


def test_a_share_is_saved_as_jpeg_once_more_and_nothing_else_changes(small_prepared) -> None:
    total = small_prepared.num_examples("train")
    options = {"batch_size": total, "seed": 4}
    plain, again = (
        take(train_batches(small_prepared, **options, jpeg_share=share), 2) for share in (0.0, 0.5)
    )
    changed = 0
    for epoch, (one, two) in enumerate(zip(plain, again, strict=True)):
        qualities = jpeg_qualities(total, 4, epoch, 0.5)
        for n in range(total):
            differs = bool((one["image"][n] != two["image"][n]).any())
            changed += differs
            assert not differs or qualities[n] >= 60
        for key in ("edge_map", "valid", "label"):
            np.testing.assert_array_equal(one[key], two[key])
    assert 0 < changed < 2 * total


def test_jpeg_saves_are_fair_and_differ_between_epochs() -> None:
    plans = [jpeg_qualities(2000, 0, epoch, 0.3) for epoch in range(4)]
    assert all(abs(np.mean(plan > 0) - 0.3) < 0.04 for plan in plans)
    assert set(plans[0]) - {0} == set(range(60, 99))
    assert not np.array_equal(plans[0], plans[1])
    assert not jpeg_qualities(2000, 0, 0, 0.0).any() and jpeg_qualities(2000, 0, 0, 1.0).all()


def test_flips_are_from_left_to_right_unless_told_otherwise(small_prepared: Prepared) -> None:
    total = small_prepared.num_examples("train")
    (plain,) = take(
        train_batches(small_prepared, batch_size=total, seed=4, horizontal_flip=False), 1
    )
    (found,) = take(train_batches(small_prepared, batch_size=total, seed=4), 1)
    coins = epoch_plan(total, 4, 0)[1][:, 1]
    expected = np.where(coins[:, None, None, None], plain["image"][:, :, ::-1], plain["image"])
    np.testing.assert_array_equal(found["image"], expected)
    assert coins.any()


def test_what_is_saved_as_jpeg_has_the_quality_that_was_drawn(small_prepared: Prepared) -> None:
    total = small_prepared.num_examples("train")
    options = {"batch_size": total, "seed": 4, "horizontal_flip": False}
    (again,) = take(train_batches(small_prepared, **options, jpeg_share=1.0), 1)
    source = tfds.builder_from_directory(str(small_prepared.dir)).as_data_source("train")
    order, qualities = epoch_plan(total, 4, 0)[0], jpeg_qualities(total, 4, 0, 1.0)
    for n, (number, quality) in enumerate(zip(order, qualities, strict=True)):
        saved = resave(source[int(number)]["image"], int(quality), "4:2:0")
        np.testing.assert_array_equal(again["image"][n], pad(saved, small_prepared.geometry))


def test_jpeg_saves_depend_on_the_seed() -> None:
    assert not np.array_equal(jpeg_qualities(2000, 0, 0, 0.3), jpeg_qualities(2000, 1, 0, 0.3))


def test_records_reach_training_as_the_configuration_says(small_prepared, monkeypatch) -> None:
    given = []
    for name in ("train_batches", "eval_batches"):
        monkeypatch.setattr(record_batches, name, lambda _, **options: given.append(options))
    config = tiny_configuration()
    config.seed, config.data.flip_horizontal, config.data.flip_vertical = 3, False, True
    config.data.jpeg_share, config.train.eval_batch_size = 0.3, 6
    record_data(small_prepared, config).val_batches()
    place = {"process_index": 0, "process_count": 1}
    own = {"seed": 3, "horizontal_flip": False, "vertical_flip": True, "jpeg_share": 0.3}
    assert given == [own | {"pairs": False, "batch_size": 4} | place, {"batch_size": 6} | place]
