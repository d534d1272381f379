"""The validation split: by class, by seed and name, never across a shared source."""

import random
from pathlib import Path

from data_pipelines.listing import AUTHENTIC, TAMPERED, Sample
from data_pipelines.splits import linked_groups, pair_samples, split_samples


def sample(name: str, label: int, *sources: str) -> Sample:
    return Sample(name, Path(name), label, None, sources)


def many(authentic: int, tampered: int) -> list[Sample]:
    """Every tampered picture is made of one authentic picture."""
    scenes = [sample(f"Au/{n}", AUTHENTIC, f"s{n}") for n in range(authentic)]
    return scenes + [sample(f"Tp/{n}", TAMPERED, f"s{n % authentic}") for n in range(tampered)]


def test_split_takes_the_share_of_each_class_and_loses_nothing() -> None:
    samples = many(200, 100)
    split = split_samples(samples, 0.1, seed=0)
    names = [s.name for s in split.train + split.validation]
    assert sorted(names) == sorted(s.name for s in samples) and len(names) == len(set(names))
    assert sum(s.label == AUTHENTIC for s in split.validation) == 20
    assert sum(s.label == TAMPERED for s in split.validation) == 10


def test_no_source_is_on_both_sides() -> None:
    split = split_samples(many(60, 60), 0.2, seed=1)
    train = {source for s in split.train for source in s.sources}
    assert split.validation and split.shared == 0
    assert train.isdisjoint(source for s in split.validation for source in s.sources)


def test_split_depends_on_seed_and_names_not_on_order() -> None:
    samples = many(50, 50)
    shuffled = random.Random(0).sample(samples, len(samples))
    assert split_samples(samples, 0.2, 5) == split_samples(shuffled, 0.2, 5)
    assert split_samples(samples, 0.2, 5).validation != split_samples(samples, 0.2, 6).validation


def test_sources_link_in_chains() -> None:
    samples = [
        sample("a", 1, "x", "y"),
        sample("b", 1, "y", "z"),
        sample("c", 0, "z"),
        sample("d", 0, "w"),
        sample("e", 0),
        sample("f", 0),
    ]
    groups = [[s.name for s in group] for group in linked_groups(samples)]
    assert sorted(groups) == [["a", "b", "c"], ["d"], ["e"], ["f"]]


def test_a_tampered_picture_is_paired_with_what_it_was_made_from() -> None:
    samples = [
        sample("one", AUTHENTIC, "crop 1", "photo"),
        sample("two", AUTHENTIC, "crop 2", "photo"),
        sample("of two", TAMPERED, "crop 2", "photo", "donor"),
        sample("also of two", TAMPERED, "crop 2"),
        sample("of what is not here", TAMPERED, "lost", "crop 2"),  # crop 2 gave the object.
        sample("of none", TAMPERED, "photo"),
        sample("unknown", TAMPERED),
    ]
    found = [(a.name, t.name) for a, t in pair_samples(samples)]
    assert found == [("two", "of two"), ("two", "also of two")]


def test_sources_that_all_hang_together_still_give_both_classes_and_are_counted() -> None:
    samples = [sample(f"Au/{n}", AUTHENTIC, "one") for n in range(10)]
    samples += [sample(f"Tp/{n}", TAMPERED, "one") for n in range(10)]
    split = split_samples(samples, 0.2, seed=0)
    assert sorted(s.label for s in split.validation) == [0, 0, 1, 1]
    assert split.shared == 4


def test_small_classes_keep_a_picture_on_both_sides() -> None:
    split = split_samples(many(3, 2), 0.1, seed=0)
    assert {s.label for s in split.train} == {s.label for s in split.validation} == {0, 1}


def test_share_of_zero_means_no_validation() -> None:
    assert split_samples(many(5, 5), 0, seed=0).validation == []


def test_single_pictures_that_fill_a_class_depend_on_the_seed() -> None:
    samples = [sample(f"Au/{n}", AUTHENTIC, "one") for n in range(20)]
    samples += [sample(f"Tp/{n}", TAMPERED, "one") for n in range(20)]
    first, second = (split_samples(samples, 0.2, seed).validation for seed in (0, 1))
    assert first != second


def test_a_large_share_leaves_training_a_picture_of_each_class() -> None:
    assert {s.label for s in split_samples(many(3, 3), 0.95, seed=0).train} == {0, 1}


def test_every_source_of_a_picture_links_it() -> None:
    samples = [sample("a", 1, "x", "y", "z"), sample("b", 0, "z")]
    assert [[s.name for s in group] for group in linked_groups(samples)] == [["a", "b"]]


def test_a_source_that_is_not_the_first_counts_as_shared() -> None:
    samples = [sample(f"Au/{n}", AUTHENTIC, f"a{n}", "donor") for n in range(10)]
    samples += [sample(f"Tp/{n}", TAMPERED, f"t{n}", "donor") for n in range(10)]
    assert split_samples(samples, 0.2, seed=0).shared == 4


def test_a_class_that_is_nearly_full_is_not_filled_with_what_training_shares() -> None:
    samples = [sample(f"Au/{n}", AUTHENTIC, f"s{n % 20}") for n in range(60)]
    split = split_samples(samples, 0.17, seed=0)  # 10 pictures wanted, in threes
    assert (len(split.validation), split.shared) == (9, 0)
