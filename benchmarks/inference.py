"""Times pictures per second through a Localizer (predict) and through an evaluation.

python -m benchmarks.inference --help. Random weights; imports no TensorFlow.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.case import Case, case_of, cpu_name, peak_rss, reset_peak_rss
from benchmarks.pictures import make_pictures
from benchmarks.train_step import config_of
from data_pipelines.images import read_image
from data_pipelines.readers import read_dataset
from sapl_jax import devices
from sapl_jax.evaluation.evaluator import evaluate_dataset
from sapl_jax.evaluation.protocols import DEFAULT, PROTOCOLS
from sapl_jax.inference.localizer import Localizer
from sapl_jax.models.sapl import build_sapl


def main() -> None:
    """Flags to one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=Case.model)
    parser.add_argument("--size", type=int, default=Case.size)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--pictures", type=int, default=8)
    args = parser.parse_args()
    args.batch, args.remat = 1, "none"
    case = case_of(args)
    config = config_of(case)
    dtype = devices.compute_dtype(args.dtype)
    localizer = Localizer(build_sapl(config, jnp.dtype(dtype)), config, {})

    with tempfile.TemporaryDirectory() as folder:
        listing = read_dataset("folder", make_pictures(Path(folder), args.pictures))
        images = [read_image(sample.image) for sample in listing.samples]
        started = time.perf_counter()
        localizer.analyse(images)  # The same shapes as below: what is timed compiles nothing.
        first = time.perf_counter() - started
        reset_peak_rss()
        started, cpu = time.perf_counter(), time.process_time()
        localizer.analyse(images)
        predicting, predicting_cpu = time.perf_counter() - started, time.process_time() - cpu
        started = time.perf_counter()
        evaluate_dataset(localizer, listing, PROTOCOLS[DEFAULT])
        evaluating = time.perf_counter() - started
    device = jax.devices()[0]
    line = {
        "what": "inference",
        "chip": cpu_name() if device.platform == "cpu" else device.device_kind,
        "model": case.model,
        "size": case.size,
        "dtype": str(dtype),
        "pictures": len(images),
        "first_call_s": first,
        "predict_per_s": len(images) / predicting,
        "predict_cpu_ms": 1e3 * predicting_cpu / len(images),
        "evaluate_per_s": len(images) / evaluating,
        "peak_memory_bytes": peak_rss() if device.platform == "cpu" else None,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
