"""The benchmarks' shapes are the shipped configuration's, and their readings are right."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.case import ARCHITECTURES, Case, model_flops, peak_flops
from benchmarks.flops import product_flops
from benchmarks.program import by_kind, collectives, matmul_flops
from benchmarks.tables import measured, replace_measured
from benchmarks.train_step import config_of
from configs.sapl import get_config
from sapl_jax.clip.config import BUILT_IN


def test_the_default_case_is_the_shipped_configuration():
    shipped, case = get_config(), config_of(Case(batch=12))
    assert case.clip.pretrained == "random:vit-large-patch14-336"
    for config in (shipped, case):
        with config.unlocked():
            config.clip.pretrained = config.train.dtype = ""
    assert case.to_dict() == shipped.to_dict()


def test_architectures_are_those_of_the_library():
    for name, clip in ARCHITECTURES.items():
        config = BUILT_IN[name]
        for tower, ours in ((clip.vision, config.vision), (clip.text, config.text)):
            assert tower.width == ours.hidden_size
            assert tower.depth == ours.num_hidden_layers
            assert tower.heads == ours.num_attention_heads
            assert 4 * tower.width == ours.intermediate_size
        assert (clip.patch, clip.image) == (config.vision.patch_size, config.vision.image_size)


def test_products_are_counted_in_every_turn_of_a_loop():
    def looped(x, w):
        def turn(x, _):
            return jax.lax.map(lambda row: jnp.tanh(row @ w), x), None

        return jax.lax.scan(turn, x, length=5)[0]

    x, w = jnp.ones((3, 8, 16)), jnp.ones((16, 16))
    text = jax.jit(looped).lower(x, w).compile().as_text()
    assert matmul_flops(text) == 5 * 3 * 2 * 8 * 16 * 16


def test_collectives_are_read_with_their_bytes():
    text = """
ENTRY %main {
  %x = (f32[8,4]{1,0}, bf16[6]{0}) all-reduce(%a, %b), to_apply=%add
  %y = pred[2,3]{1,0} all-gather(%c), dimensions={0}
  %z = f32[8,4]{1,0} get-tuple-element(%x), index=0
  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%d), dimensions={0}
}
"""
    found = collectives(text)
    assert [(c.kind, c.arrays, c.result_bytes) for c in found] == [
        ("all-reduce", 2, 8 * 4 * 4 + 6 * 2),
        ("all-gather", 1, 6),
        ("all-gather", 1, 32),
    ]


def test_a_collective_in_fused_pieces_is_counted_once():
    piece = """
%fusion.{n} (p: f32[4,2], q: f32[8]) -> f32[4,16] {{
  %g.{n} = f32[4,16]{{1,0:T(8,128)S({n})}} all-gather(%p), channel_id=1, metadata={{op_name="a"}}
}}
"""
    entry = """
ENTRY %main (p: f32[4,2]) -> f32[4,16] {
  %r = f32[2]{0} all-reduce(%b), channel_id=1, metadata={op_name="a"}
  %h = f32[4,16]{1,0} all-gather(%c), channel_id=1, metadata={op_name="a"}
}
"""
    found = collectives("".join(piece.format(n=n) for n in range(3)) + entry)
    assert by_kind(found) == {
        "all-gather": {"number": 2, "bytes": 2 * 4 * 16 * 4},
        "all-reduce": {"number": 1, "bytes": 8},
    }


def test_products_are_counted_before_a_platform_is_chosen():
    """The traced program and the compiled one agree, and each platform has its own branch."""

    def looped(x, w):
        def turn(x, _):
            by_platform = {"cpu": lambda x: w @ x, "default": lambda x: w @ (w @ x)}
            return jnp.tanh(jax.lax.platform_dependent(x, **by_platform)), None

        return jnp.sum(jax.lax.scan(turn, x, length=5)[0])

    x, w = jnp.ones((8, 3)), jnp.ones((8, 8))
    traced = jax.jit(jax.grad(looped)).trace(x, w)
    forward_and_backward = 5 * 2 * (2 * 8 * 8 * 3)
    assert matmul_flops(traced.lower().compile().as_text()) == forward_and_backward
    assert product_flops(traced.jaxpr, "cpu") == forward_and_backward
    assert product_flops(traced.jaxpr, "tpu") == 2 * forward_and_backward


def test_needed_flops_of_the_papers_step():
    """828 GFLOP of linear layers forward and back each, attention three times 185 GFLOP."""
    assert model_flops(Case()) == pytest.approx(2.22e12, rel=0.01)
    assert model_flops(Case(batch=2)) == pytest.approx(2 * model_flops(Case()))
    assert model_flops(Case(model="some/folder")) is None


def test_peaks_are_found_by_the_name_of_the_chip():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("AMD EPYC, 2 cores", "float32") is None


def test_the_page_keeps_its_text_and_gets_ratios(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Words\n<!-- measured -->\nold\n<!-- end of measured -->\nmore words\n")
    common = {
        "chip": "A chip", "model": "m", "size": 512, "batch": 1, "dtype": "float32",
        "remat": "none", "compile_s": 1.0, "mfu": None, "model_flops": 1e12, "load_average": 0.5,
    }  # fmt: skip
    lines = [
        common | {"what": "train_step", "step_ms": 50.0, "cpu_ms": 80.0,
                  "peak_memory_bytes": 3e9, "program_flops": 1.1e12},
        common | {"what": "torch_peer", "step_ms": 100.0, "cpu_ms": 100.0,
                  "peak_memory_bytes": 4e9},
        {"what": "benchmarks.pipeline", "failed": "not done after 5 s"},
    ]  # fmt: skip
    replace_measured(page, measured(lines))
    text = page.read_text()
    assert text.startswith("# Words\n") and text.endswith("more words\n") and "old" not in text
    assert "step time 0.50, processor time 0.80, peak memory 0.75" in text
    assert "`benchmarks.pipeline`: not done after 5 s" in text
