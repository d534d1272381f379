"""The ablations of the paper's Tables 2-6: `--config configs/ablations.py:ROW` trains one row.

`python -m sapl_jax.ablate` trains and evaluates them all. A row is the paper's configuration with
the fields named here changed; ROWS says which, GROUPS which rows make up a comparison.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import demo, sapl


class Row(NamedTuple):
    """One trained variant."""

    title: str  # as the paper names it
    changes: Mapping[str, Any]  # fields under config.model
    # The paper's mean I-AUC and P-F1 over CASIAv1 and IMD2020, None where its text has none.
    published: tuple[float | None, float | None] = (None, None)


_NO_HECL, _NO_EDGES = {"hecl.enabled": False}, {"hecl.use_edges": False}
_FIXED, _BLIND = {"prompts": "fixed"}, {"prompts": "ecpl_no_edge"}

LENGTHS = (8, 12, 16, 20)  # learned context vectors per class
QUEUES = (256, 512, 1024, 2048, 4096)  # keys per class and tap

ROWS: dict[str, Row] = {
    "sapl": Row("ECPL and HECL (SAPL)", {}, (0.919, 0.360)),
    # Modules, alone, with and without edges.
    "clip_lora": Row("CLIP with LoRA", _FIXED | _NO_HECL, (0.871, 0.198)),
    "ecpl_no_edge": Row("ECPL without edge", _BLIND | _NO_HECL, (0.886, 0.264)),
    "ecpl": Row("ECPL", {"prompts": "ecpl", **_NO_HECL}, (0.911, 0.305)),
    "hecl_no_edge": Row("HECL without edge", _FIXED | _NO_EDGES, (0.891, 0.275)),
    "hecl": Row("HECL", _FIXED, (0.908, 0.352)),
    # The controls: what edges are worth must be lost with another picture's.
    "hecl_another": Row("HECL, another picture's edges", _FIXED | {"edges": "another"}),
    "sapl_another": Row("SAPL, another picture's edges", {"edges": "another"}),
    # Prompts.
    "coop": Row("CoOp", {"prompts": "coop", **_NO_HECL}, (0.878, 0.178)),
    "cocoop": Row("CoCoOp", {"prompts": "cocoop", **_NO_HECL}, (0.876, 0.222)),
    # Edges off in one or both modules of the whole method.
    "sapl_ecpl_no_edge": Row("SAPL, ECPL without edge", _BLIND),
    "sapl_hecl_no_edge": Row("SAPL, HECL without edge", _NO_EDGES),
    "sapl_no_edge": Row("SAPL without edge", _BLIND | _NO_EDGES),
}


def grid_row(length: int, queue: int) -> str:
    """The row of a prompt length and queue length; the paper's own choice is the row `sapl`."""
    return "sapl" if (length, queue) == (12, 1024) else f"length{length}_queue{queue}"


for _length in LENGTHS:
    for _queue in QUEUES:
        _title = f"{_length} prompt vectors, queues of {_queue}"
        _row = Row(_title, {"prompt_length": _length, "hecl.queue_length": _queue})
        ROWS.setdefault(grid_row(_length, _queue), _row)

GROUPS: dict[str, tuple[str, ...]] = {
    "modules": (
        "clip_lora", "ecpl_no_edge", "ecpl", "hecl_no_edge", "hecl", "hecl_another", "sapl",
    ),
    "prompts": ("clip_lora", "coop", "cocoop", "ecpl"),
    "edges": ("sapl", "sapl_ecpl_no_edge", "sapl_hecl_no_edge", "sapl_no_edge", "sapl_another"),
    "grid": tuple(grid_row(length, queue) for length in LENGTHS for queue in QUEUES),
}  # fmt: skip

# How rows are trained at the demo's size: its rate, but the paper's losses, CLIP's attention and
# larger patches. Pooled patches and the background term train every row's map and would hide what
# ECPL and HECL add. Such patches pay for three times the demo's epochs (docs/evidence.md).
SMALL: dict[str, Any] = {
    "clip.pretrained": str(demo.ASSETS / "clip_patch16"),
    "train.epochs": 9.0,
    "model.image_logits": "cls",
    "model.attention_reach": 0,
    "model.heat_map.sigma": 4.0,
    "model.heat_map.normalize": 0.0,
    "model.test_views": False,
    "model.hecl.top_k": 3,  # of 64 patches; the paper's size has 16 of 1369
    "model.hecl.givers": "found_both",
    "train.background_share": 0.0,
    "train.tampered_weight": 1.0,
    "train.keep": "last",
}


def get_config(row: str = "sapl") -> ConfigDict:
    """The configuration of a row, locked. ValueError that lists the rows for any other name.

    "demo/ROW" changes configs/demo.py with SMALL instead of the paper's configuration.
    """
    name = row.removeprefix("demo/")
    if name not in ROWS:
        raise ValueError(f"no ablation {row!r}; there are {', '.join(ROWS)}, also as demo/ROW")
    config = (sapl if name == row else demo).get_config()
    if name != row:
        config.update_from_flattened_dict(SMALL)
    config.update_from_flattened_dict({f"model.{k}": v for k, v in ROWS[name].changes.items()})
    return config
