"""A few generated pictures for the page to offer."""

from pathlib import Path

from data_pipelines.generator.benchmark import make_example

_SEED = 20_240  # No generated training set uses this seed.
_NUMBERS = (0, 1, 3, 5)


def write_examples(folder: Path, size: int = 384) -> list[Path]:
    """Writes pictures into a folder; their names say whether and how they were tampered with."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in _NUMBERS:
        example = make_example(_SEED, number, size)
        path = folder / f"{number}_{example.kind}.jpg"
        path.write_bytes(example.jpeg)
        paths.append(path)
    return paths
