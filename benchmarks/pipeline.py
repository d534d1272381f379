"""Times the input: pictures prepared per second, and prepared records read per second.

python -m benchmarks.pipeline --root CASIA2 --dataset casia_v2
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.case import cpu_name
from benchmarks.pictures import make_pictures


def main() -> None:
    """Flags to one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="data set (default: 240 made-up pictures)")
    parser.add_argument("--dataset", default="folder", help="its layout")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0, help="of reading")
    args = parser.parse_args()

    from data_pipelines.prepare import prepare
    from data_pipelines.record_batches import train_batches

    with tempfile.TemporaryDirectory() as folder:
        root = args.root or make_pictures(Path(folder) / "pictures", 240)
        started, cpu = time.perf_counter(), time.process_time()
        prepared = prepare(args.dataset, root, Path(folder) / "prepared")
        preparing, preparing_cpu = time.perf_counter() - started, time.process_time() - cpu
        pictures = sum(prepared.num_examples(split) for split in prepared.counts)

        batches = train_batches(prepared, batch_size=args.batch, seed=0)
        next(batches)
        started, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - started < args.seconds:
            count += len(next(batches)["label"])
        reading, reading_cpu = time.perf_counter() - started, time.process_time() - cpu
    line = {
        "what": "input",
        "chip": cpu_name(),
        "data": args.dataset if args.root else "made-up pictures, 384 x 256",
        "pictures": pictures,
        "prepared_per_s": pictures / preparing,
        "prepare_cpu_ms": 1e3 * preparing_cpu / pictures,
        "read_per_s": count / reading,
        "read_cpu_ms": 1e3 * reading_cpu / count,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
