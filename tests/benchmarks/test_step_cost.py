"""Guards the cost of the compiled training step without a clock: products, memory, collectives."""

import json
import math

import jax
import pytest

from benchmarks.lowering import lower_step, prediction_program
from benchmarks.program import collectives, matmul_flops
from configs import sapl

# Two devices, four pictures, the demo's shapes. A change that does more work than this on purpose
# changes these numbers in the same commit and says why.
MATMUL_GFLOPS = 9.32
TEMPORARY_MB = 59.1
TOUCHED_MB = 636.0  # what the program's instructions read and write, by XLA's own count


def demo_sized_config(tmp_path):
    """configs/sapl.py on an architecture of the demo's size, fixed here."""
    folder = tmp_path / "clip"
    folder.mkdir()
    tower = {"num_attention_heads": 4, "num_hidden_layers": 4}
    vision = {"hidden_size": 128, "intermediate_size": 512, "patch_size": 8, "image_size": 96}
    text = {"hidden_size": 64, "intermediate_size": 256, "vocab_size": 512}
    config_json = {
        "model_type": "clip",
        "projection_dim": 64,
        "vision_config": tower | vision,
        "text_config": tower | text | {"bos_token_id": 510, "eos_token_id": 511},
    }
    (folder / "config.json").write_text(json.dumps(config_json))
    config = sapl.get_config()
    config.clip.pretrained = f"random:{folder}"
    config.image.size = 192
    config.model.taps = (1, 2, 3, 4)
    config.train.batch_size = 4
    return config


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    config = demo_sized_config(tmp_path_factory.mktemp("step"))
    lowered = lower_step(config, jax.devices()[:2])
    # Compiled as users run it: the suite's own setting skips passes that shape the program.
    return config, lowered.compile({"xla_backend_optimization_level": 3})


def trainable_bytes(compiled):
    state = compiled.args_info[0][0]
    leaves = jax.tree.leaves(state.params)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def test_matrix_products_stay_within_their_bound(compiled):
    flops = matmul_flops(compiled[1].as_text())
    assert 0.9 * MATMUL_GFLOPS < flops / 1e9 < 1.02 * MATMUL_GFLOPS


def test_temporary_memory_stays_within_its_bound(compiled):
    used = compiled[1].memory_analysis().temp_size_in_bytes
    assert used / 1e6 < 1.15 * TEMPORARY_MB


def touched_mb(program):
    return program.cost_analysis()["bytes accessed"] / 1e6


def test_bytes_read_and_written_stay_within_their_bound(compiled):
    assert 0.8 * TOUCHED_MB < touched_mb(compiled[1]) < 1.1 * TOUCHED_MB


def test_collectives_move_gradients_and_keys_only(compiled):
    config, program = compiled
    hecl = config.model.hecl
    found = collectives(program.as_text())
    reduced = sum(c.result_bytes for c in found if c.kind == "all-reduce")
    gathered = sum(c.result_bytes for c in found if c.kind == "all-gather")
    assert {c.kind for c in found} == {"all-reduce", "all-gather"}
    assert len(found) <= 5
    # Gradients, two anchor counts and a few metrics.
    assert 0 <= reduced - trainable_bytes(program) <= 64
    anchors = config.train.batch_size * 2 * hecl.top_k
    width = 64  # Of the joint space.
    keys = len(config.model.taps) * anchors * width * 4
    assert 0 <= gathered - keys <= anchors * 8


def test_of_more_keys_than_queues_hold_only_their_slots_move(tmp_path):
    config = demo_sized_config(tmp_path)
    config.model.hecl.queue_length = 8
    program = lower_step(config, jax.devices()[:2]).compile()
    found = collectives(program.as_text())
    reduced = sum(c.result_bytes for c in found if c.kind == "all-reduce")
    gathered = sum(c.result_bytes for c in found if c.kind == "all-gather")
    slots = len(config.model.taps) * 2 * 8 * 64 * 4
    assert 0 <= reduced - trainable_bytes(program) - slots <= 64
    # Whether a key is valid, for each.
    assert gathered <= config.train.batch_size * 2 * config.model.hecl.top_k


def test_prediction_on_two_devices_moves_nothing(tmp_path):
    config = demo_sized_config(tmp_path)
    config.image.size = 264  # 1,090 tokens: attention goes by heads.
    program = prediction_program(config, jax.devices()[:2])
    assert collectives(program.lower().compile().as_text()) == []


def test_prediction_stays_within_its_products_and_memory(tmp_path):
    program = prediction_program(demo_sized_config(tmp_path), jax.devices()[:2])
    compiled = program.lower().compile({"xla_backend_optimization_level": 3})
    assert 3.06 < matmul_flops(compiled.as_text()) / 1e9 < 3.47
    assert compiled.memory_analysis().temp_size_in_bytes < 1.15 * 10.4e6
    assert touched_mb(compiled) < 1.1 * 214.2
