"""Compiling for chips that are not here: what is asked, what is missing, and (slow) what comes."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.compile_for import largest_that_fits
from benchmarks.compiled import table
from benchmarks.targets import target_of
from sapl_jax.clip.blocks import LEVELS
from sapl_jax.clip.config import BUILT_IN
from sapl_jax.errors import UserError
from sapl_jax.training.memory import fitting_level

# Folders with the compilers' packages (pip install --target), where this environment has none.
PLUGINS = os.environ.get("SAPL_PLUGINS", "").split(":")


def run(*flags):
    command = [sys.executable, "-m", "benchmarks.compile_for", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("true", [1, 2, 7, 12, 13, 50, 400])
@pytest.mark.parametrize("curve", [0.0, 0.002, -0.0005])
def test_the_largest_batch_is_found_in_few_compiles(true, curve):
    asked = []

    def bytes_at(batch):
        asked.append(batch)
        return float("inf") if batch > 4 * true else 3 + batch + curve * batch**2

    limit = 3 + true + curve * true**2 + 1e-6
    found = largest_that_fits(bytes_at, 12, limit)
    assert max(1, true - max(1, true // 20)) <= found <= true
    assert len(asked) == len(set(asked)) <= 9


def test_not_even_one_fits():
    assert largest_that_fits(lambda batch: 10.0 + batch, 12, 10.5) is None


def test_targets():
    h100, slice_, default = target_of("H100", None, 8), target_of(None, "v5e:8x8", 1), None
    default = target_of(None, "v6e", 1)
    assert (h100.platform, h100.topology) == ("gpu", "8")
    assert h100.usable_bytes == pytest.approx(63.7e9, rel=0.01)
    assert (slice_.topology, default.topology) == ("8x8", "2x4")
    with pytest.raises(UserError, match="'h1000'.*h100, h200"):
        target_of("h1000", None, 1)


def test_without_the_compiler_it_says_how_to_get_it(tmp_path):
    if importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is installed here")
    status, out, error = run("--tpu", "v5e", "--plugins", str(tmp_path))
    assert (status, out) == (2, "")
    assert 'pip install "jax[tpu]==' in error and "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, module, per_picture, recomputed",
    [
        (["--gpu", "h100", "--devices", "8"], "jax_cuda12_plugin", 0.78e9, 1.06),
        (["--gpu", "h100", "--remat", "mlp"], "jax_cuda12_plugin", 0.45e9, 1.21),
        (["--gpu", "rtx3090"], "jax_cuda12_plugin", 0.78e9, 1.06),
        (["--tpu", "v5e:2x4"], "libtpu", 0.70e9, 1.06),
    ],
)
def test_the_papers_step_compiles_and_fits(flags, module, per_picture, recomputed):
    """12 pictures on each device; the heads are 1.2 % of the products, and not in those needed."""
    here = ["", *PLUGINS]
    folder = next((f for f in here if f and os.path.isdir(os.path.join(f, module))), None)
    if not folder and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; SAPL_PLUGINS names no folder that has it")
    more = ["--plugins", folder] if folder else []
    status, out, error = run(*flags, *more, "--program", "step", "--no-largest")
    assert status == 0, error[-3000:]
    line = json.loads(out)
    assert line["memory_bytes"] < line["usable_bytes"]
    assert (line["memory_bytes"] - line["argument_bytes"]) / 12 < per_picture
    assert line["program_flops"] < recomputed * line["model_flops"]
    if module == "jax_cuda12_plugin":
        assert line["cudnn_calls"] == {"forward": 24, "backward": 24}
    if line["devices"] > 1:
        assert {"all-reduce", "all-gather"} >= set(line["collectives"])
    # The estimate that chooses for a run neither takes a level that does not fit, nor wastes much.
    vision = BUILT_IN["vit-large-patch14-336"].vision
    needed, level = line["memory_bytes"], LEVELS.index(line["remat"])
    for share, expected in ((0.95, {level + 1, level + 2}), (1.4, {level, level - 1})):
        chosen = fitting_level(vision, (12, 518, 518, 3), "bfloat16", share * needed)
        assert LEVELS.index(chosen) in expected


def test_the_table_has_a_row_for_each_line():
    line = {
        "what": "compiled step", "target": "A chip", "devices": 8, "model": "m", "size": 512,
        "batch_per_device": 12, "dtype": "bfloat16", "remat": "mlp", "memory_bytes": 7e9,
        "argument_bytes": 1e9, "usable_bytes": 16e9, "program_flops": 28e12, "model_flops": 26e12,
        "collectives": {"all-reduce": {"number": 3, "bytes": 57e6}}, "versions": {"jax": "1"},
        "roofline_ms": {"products": 30.0, "memory": 5.0, "links": 0.25},
        "largest_batch_per_device": 20,
    }  # fmt: skip
    row = table([line, line]).splitlines()[-1]
    assert row == (
        "| step | A chip | 8 | 12 | mlp | 7.0, 16.0 | 0.50 | 20 | 28.0 (26.0) | 57, 0 | "
        "30.0, 5.0, 0.2 |"
    )
