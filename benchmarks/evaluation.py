"""Times what an evaluation costs beside the model: measures, bootstrap and report.

python -m benchmarks.evaluation --checkpoint DIR --dataset casia_v2=PATH

Evaluates twice: with the model, and with the answers it gave. The second is what the evaluation
costs by itself, reading the pictures included; the difference is the model's. The trivial
predictors, which `sapl evaluate` adds, are methods of their own and are left out.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import cpu_name
from benchmarks.pictures import make_pictures
from data_pipelines.images import read_image
from data_pipelines.listing import Listing
from data_pipelines.readers import parse_dataset, read_dataset
from sapl_jax.evaluation import report, results
from sapl_jax.evaluation.protocols import DEFAULT, PROTOCOLS
from sapl_jax.evaluation.session import Method, run
from sapl_jax.files import write_json
from sapl_jax.inference.detector import Result
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import SHIPPED


class Recorder:
    """A localizer that keeps its answers, and gives them once more after `rewind`.

    Whatever else a report reads of it (features of edge patches, the calibration) is the
    localizer's own.
    """

    def __init__(self, localizer: Localizer):
        self._localizer = localizer
        self._answers: list[Result] = []
        self._rest: Iterator[Result] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._localizer, name)

    def __len__(self) -> int:
        return len(self._answers)

    def rewind(self) -> None:
        """From now on, the answers kept, to the same pictures in the same order."""
        self._rest = iter(self._answers)

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """One result for each picture, see `Detector`."""
        if self._rest is not None:
            return [next(self._rest) for _ in images]
        found = list(self._localizer.analyse(images))
        self._answers += found
        return found


def evaluate(
    detector: Recorder, listings: list[tuple[str, Listing]], output: Path
) -> tuple[float, float]:
    """Processor seconds of all threads: of the evaluation, of its report and files of results."""
    output.mkdir()
    started = time.process_time()
    session = run([Method("SAPL", detector, {})], listings, PROTOCOLS[DEFAULT])
    evaluated = time.process_time()
    for result in session.main:
        results.write_images_csv(output / f"{result.name}.csv", result)
    write_json(output / "results.json", results.build(session))
    report.write(session, output, listings)
    return evaluated - started, time.process_time() - evaluated


def main() -> None:
    """Flags to one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--dataset", metavar="NAME=PATH", help="default: made-up pictures")
    parser.add_argument("--pictures", type=int, default=2000, help="of those made up")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = args.dataset or f"folder={make_pictures(root / 'pictures', args.pictures)}"
        name, layout, path = parse_dataset(text)
        listings = [(name, read_dataset(layout, path))]
        localizer = Localizer.load(args.checkpoint)
        localizer.analyse([read_image(sample.image) for sample in listings[0][1].samples[:8]])
        recorder = Recorder(localizer)  # compiled by now
        both, _ = evaluate(recorder, listings, root / "with the model")
        recorder.rewind()
        alone, reporting = evaluate(recorder, listings, root / "with its answers")
    model = both - alone
    line = {
        "what": "evaluation",
        "chip": cpu_name(),
        "checkpoint": args.checkpoint.name,
        "pictures": len(recorder),
        "model_cpu_s": model,
        "evaluation_cpu_s": alone,
        "report_cpu_s": reporting,
        "share": (alone + reporting) / model,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
