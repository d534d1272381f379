"""The PyTorch peer computes what we compute: same weights and batches, same losses and gradients.

Needs torch, transformers and peft: here, or in the Python that SAPL_PEER_PYTHON names.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.case import Case
from benchmarks.train_step import OurStep
from sapl_jax.checkpoints import flatten

ROOT = Path(__file__).parents[2]


def peer_python() -> str | None:
    """A Python that has the peer's packages."""
    if "SAPL_PEER_PYTHON" in os.environ:
        return os.environ["SAPL_PEER_PYTHON"]
    here = all(importlib.util.find_spec(name) for name in ("torch", "peft"))
    return sys.executable if here else None


@pytest.mark.skipif(peer_python() is None, reason="no Python with torch and peft")
def test_the_peer_gives_our_losses_and_gradients(tiny_clip_folder, tmp_path):
    case = Case(
        model=str(tiny_clip_folder),
        size=40,  # 6 x 6 patches where CLIP has 4 x 4: positions are interpolated.
        batch=4,
        taps=(2, 4),
        prompt_length=3,
        attention_heads=4,
        top_k=3,
        queue_length=8,
        learning_rate=1e-4,
    )
    ours = OurStep(case, warm_up=False)
    rng = np.random.default_rng(0)
    # Nothing may stay at its zero initial value, or its part of the computation is not compared.
    params = {
        name: np.asarray(value) + 0.02 * rng.standard_normal(value.shape).astype(np.float32)
        for name, value in flatten(jax.device_get(ours.state.params)).items()
    }
    ours.set_params(params)
    (tmp_path / "case.json").write_text(json.dumps(dataclasses.asdict(case) | {"steps": 3}))
    np.savez(tmp_path / "in.npz", **params)
    subprocess.run(
        [peer_python(), "-m", "tests.benchmarks.run_peer", "case.json", "in.npz", "out.npz"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    peer = dict(np.load(tmp_path / "out.npz"))

    before = None
    for index in range(3):
        before = flatten(jax.device_get(ours.state.opt_state))
        metrics = ours.step(ours.batch(index))
        for name in ("loss", "loss_cls", "loss_hecl", "grad_norm"):
            np.testing.assert_allclose(metrics[name], peer[name][index], rtol=3e-4, err_msg=name)
    assert peer["loss_hecl"][2] > 0.1
    after = flatten(jax.device_get(ours.state.opt_state))
    compared = 0
    for name, value in after.items():
        if "/mu/" not in name and not name.startswith("0/mu"):
            continue
        gradient = (value - 0.9 * before[name]) / 0.1  # Of Adam's first moment.
        wanted = peer["grad:" + name.split("mu/", 1)[1]]
        scale = np.abs(wanted).max()
        assert scale > 0, name
        np.testing.assert_allclose(gradient, wanted, atol=1e-3 * scale, err_msg=name)
        compared += 1
    assert compared == len(params)
