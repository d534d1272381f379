"""The runtimes that prediction is timed beside compute what we compute, from the same weights."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch.compile"}


def test_every_installed_runtime_gives_our_score_and_map(tiny_clip_folder):
    installed = {name for name in PEERS if importlib.util.find_spec(name)}
    if importlib.util.find_spec("jax2onnx") is None:
        installed &= {"torch"} if importlib.util.find_spec("peft") else set()
    if not installed:
        pytest.skip("no other runtime is installed")
    options = ["--model", str(tiny_clip_folder), "--size", "40", "--turns", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inference_peers", *options],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    line = json.loads(done.stdout.splitlines()[-1])
    assert set(line["differs"]) == {"ours", *(PEERS[name] for name in installed)}, line["failed"]
    assert max(line["differs"].values()) < 1e-4
    assert line["gflop"] > 0 and set(line["cpu_s"]) == set(line["differs"])
