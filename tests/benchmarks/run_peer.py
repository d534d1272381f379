"""Runs the PyTorch peer on given weights: run_peer.py CASE.json IN.npz OUT.npz.

IN holds our trainable arrays; OUT gets the losses of each step and the gradients of the last.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.case import Case
from benchmarks.torch_model import gradients, load_trainable
from benchmarks.torch_peer import PeerStep

raw = json.loads(Path(sys.argv[1]).read_text())
steps = raw.pop("steps")
torch.manual_seed(0)
peer = PeerStep(Case(**raw | {"taps": tuple(raw["taps"])}), compiled=False, warm_up=False)
load_trainable(peer.model, dict(np.load(sys.argv[2])))
history = [peer.step(peer.batch(index)) for index in range(steps)]
losses = {name: np.array([step[name] for step in history]) for name in history[0]}
np.savez(sys.argv[3], **losses, **{f"grad:{k}": v for k, v in gradients(peer.model).items()})
