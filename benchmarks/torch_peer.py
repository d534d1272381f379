"""Times the training step of the PyTorch peer: python -m benchmarks.torch_peer --help.

Needs torch, transformers and peft; neither JAX nor anything else of this project.
"""

import contextlib
import time

import torch

from benchmarks.case import (
    Case,
    argument_parser,
    case_of,
    cpu_name,
    measure,
    peak_rss,
    random_batch,
)
from benchmarks.torch_model import SAPLPeer


class PeerStep:
    """The peer's step on the GPU if there is one, eagerly or through `torch.compile`."""

    def __init__(self, case: Case, compiled: bool, warm_up: bool = True):
        torch.manual_seed(0)
        self.case, self.compiled = case, compiled
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self.device.type == "cuda"
        self.chip = torch.cuda.get_device_name() if on_gpu else cpu_name()
        with self.device:
            self.model = SAPLPeer(case).to(self.device).train()
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trainable, lr=case.learning_rate, weight_decay=case.weight_decay, fused=True
        )
        self.losses = torch.compile(self.model) if compiled else self.model
        self.compile_s = 0.0
        if warm_up:
            self._warm_up()

    def _warm_up(self) -> None:
        started = time.perf_counter()
        self.step(self.batch(0))
        if self.compiled:
            first = time.perf_counter() - started
            batch, started = self.batch(1), time.perf_counter()
            self.step(batch)
            self.compile_s = max(0.0, first - (time.perf_counter() - started))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def batch(self, index: int) -> dict[str, torch.Tensor]:
        """A batch on the device."""
        arrays = random_batch(self.case, self.model.patch, index)
        batch = {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}
        batch["label"] = batch["label"].long()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return batch

    def step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One step: forward, backward, norm of the gradients, AdamW."""
        half = self.case.dtype == "bfloat16"
        autocast = torch.autocast(self.device.type, torch.bfloat16)
        with autocast if half else contextlib.nullcontext():
            loss_cls, loss_hecl, queues = self.losses(**batch)
            loss = loss_cls + self.case.hecl_weight * loss_hecl
        self.optimizer.zero_grad()
        loss.backward()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads, foreach=True)
        self.optimizer.step()
        self.model.set_queues(queues)
        return {
            "loss": loss.item(),
            "loss_cls": loss_cls.item(),
            "loss_hecl": loss_hecl.item(),
            "grad_norm": norm.item(),
        }

    def peak_memory(self) -> int:
        """On a GPU what PyTorch allocated there, else the process's resident memory."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_rss()

    def facts(self) -> dict:
        """Versions and what was compiled."""
        return {"compiled": self.compiled, "versions": {"torch": torch.__version__}}


def main() -> None:
    """Flags to one JSON line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed, after a warm-up")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    args = parser.parse_args()
    what = "torch_peer compiled" if args.compile else "torch_peer"
    measure(what, args, case_of(args), lambda case: PeerStep(case, args.compile))


if __name__ == "__main__":
    main()
