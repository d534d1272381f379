"""Times the program of `predict` beside the same weights in other runtimes, by ratio, in turns.

python -m benchmarks.inference_peers --help. On CPUs, one picture, float32. Sides that are not
installed are left out: onnxruntime and openvino (with jax2onnx), torch (with transformers, peft).
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Threads that wait for their turn should not count as work.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # forks beside the threads of JAX otherwise

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.case import ARCHITECTURES, Case, cpu_name, random_batch
from benchmarks.program import matmul_flops
from benchmarks.train_step import config_of
from sapl_jax.checkpoints import flatten
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import merge_lora
from sapl_jax.clip.weights import save_clip
from sapl_jax.exporting.formats import write_onnx
from sapl_jax.inference.opening import TrainedModel
from sapl_jax.models.sapl import build_sapl, score_and_patch_map, with_parts
from sapl_jax.training.state import merge_model, split_model

PEERS = ["ONNX Runtime", "OpenVINO", "torch.compile"]  # all of them at ViT-L/14: over 23 GB
Arrays = list[np.ndarray]  # image, edge map, valid patches; or score and patch map
Side = Callable[[Arrays], Arrays]


def ours(trained: TrainedModel, inputs: Arrays) -> tuple[Side, float | None]:
    """Our compiled program, and the FLOPs of its matrix products."""
    params, frozen = split_model(with_parts(trained.model, heads=None))

    def run(params: Any, weights: Any, *arrays: jax.Array) -> Any:
        return score_and_patch_map(merge_model(params, frozen._replace(params=weights)), *arrays)

    compiled = jax.jit(run).lower(params, frozen.params, *inputs).compile()

    def side(arrays: Arrays) -> Arrays:
        return jax.device_get(compiled(params, frozen.params, *arrays))

    return side, matmul_flops(compiled.as_text() or "")


def onnx_runtime(file: Path, threads: int) -> Side:
    """The ONNX export in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def openvino(file: Path, threads: int) -> Side:
    """The ONNX export in OpenVINO, for one picture, products in float32."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(str(file), "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda arrays: list(compiled(arrays).values())


def torch_compile(case: Case, trainable: dict[str, np.ndarray], threads: int) -> Side:
    """The PyTorch peer with LoRA merged, through `torch.compile`."""
    import torch

    from benchmarks.torch_model import SAPLPeer, load_trainable

    torch.set_num_threads(threads)
    peer = SAPLPeer(case).eval()
    load_trainable(peer, trainable)
    peer.peft.merge_adapter()
    compiled = torch.compile(peer.score_and_patch_map)

    def side(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            return [t.numpy() for t in compiled(*map(torch.from_numpy, arrays))]

    return side


def make_case(model: str, size: int, folder: Path) -> Case:
    """The case of a CLIP folder or an architecture; writes its weights, no tokenizer, to folder."""
    if model in ARCHITECTURES:
        save_clip(load_clip(f"random:{model}"), folder)
    else:
        for name in ("config.json", "model.safetensors"):
            shutil.copy(Path(model) / name, folder)
    depth = json.loads((folder / "config.json").read_text())["vision_config"]["num_hidden_layers"]
    return Case(model=str(folder), size=size, taps=tuple(depth * k // 4 for k in (1, 2, 3, 4)))


def build(case: Case) -> tuple[dict[str, np.ndarray], TrainedModel]:
    """What trains in our model of the case, the same in every process, and the model, merged."""
    config = config_of(case)
    model = build_sapl(config, jnp.dtype("float32"))
    trainable = flatten(jax.device_get(split_model(model)[0]))
    return trainable, TrainedModel(with_parts(model, clip=merge_lora(model.clip)), config, {})


def export(case: Case, folder: Path) -> None:
    """Writes the ONNX export of the case's model to folder."""
    write_onnx(build(case)[1], folder)


def sides_of(
    case: Case, folder: Path, inputs: Arrays, threads: int, peers: list[str]
) -> tuple[dict[str, Side], dict[str, str], float | None]:
    """Ours and the installed of `peers`, why others are not, and the FLOPs of our products."""
    failed = {}
    try:  # In a process of its own, as what it takes at ViT-L/14 leaves too little for the sides.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(export, case, folder).result()
    except Exception as error:  # of any kind: the other sides still run, and the line says why
        failed["ONNX export"] = str(error)
    trainable, merged = build(case)
    program, flops = ours(merged, inputs)
    del merged
    sides = {"ours": program}
    file = folder / "model.onnx"
    makers: dict[str, Callable[[], Side]] = {
        "ONNX Runtime": lambda: onnx_runtime(file, threads),
        "OpenVINO": lambda: openvino(file, threads),
        "torch.compile": lambda: torch_compile(case, trainable, threads),
    }
    for name in peers:
        try:
            sides[name] = makers[name]()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    return sides, failed, flops


def main() -> None:
    """Flags to one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=Case.model, help="an architecture, or a CLIP folder")
    parser.add_argument("--size", type=int, default=Case.size)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1, help="of each side in each turn")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make_case(args.model, args.size, folder)
        patch = json.loads((folder / "config.json").read_text())["vision_config"]["patch_size"]
        batch = random_batch(case, patch, 0)
        inputs = [batch["image"], batch["edge_map"], batch["valid"]]
        sides, failed, flops = sides_of(case, folder, inputs, threads, args.peers)
        found = {}
        for side, run in list(sides.items()):  # The first calls compile.
            try:
                found[side] = [np.asarray(array) for array in run(inputs)]
            except Exception as error:
                failed[side] = f"{type(error).__name__}: {error}"[:200]
                del sides[side]
        cpu: dict[str, list[float]] = {side: [] for side in sides}
        wall: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.turns):
            for side, run in sides.items():
                started, used = time.perf_counter(), time.process_time()
                for _ in range(args.calls):
                    run(inputs)
                wall[side].append((time.perf_counter() - started) / args.calls)
                cpu[side].append((time.process_time() - used) / args.calls)
    seconds = {side: statistics.median(values) for side, values in cpu.items()}
    line = {
        "what": "inference_peers",
        "chip": cpu_name(),
        "model": args.model,
        "size": args.size,
        "cpu_s": seconds,
        "wall_s": {side: statistics.median(values) for side, values in wall.items()},
        "ours_by_cpu": {side: seconds["ours"] / value for side, value in seconds.items()},
        "gflop": flops and flops / 1e9,
        "differs": {
            side: max(
                float(np.abs(a - b).max()) for a, b in zip(found["ours"], arrays, strict=True)
            )
            for side, arrays in found.items()
        },
        "failed": failed,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
