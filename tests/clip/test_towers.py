"""How the towers behave beyond parity: taps, causality, end of text, dtypes, attention, memory."""

import dataclasses
import json
import math
import operator
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sapl_jax.clip import attention as attention_module
from sapl_jax.clip.attention import attention
from sapl_jax.clip.blocks import LEVELS, LoRAParam, Recompute, Trainable, lecun_stacked
from sapl_jax.clip.config import (
    ACTIVATIONS,
    BUILT_IN,
    CLIPConfig,
    LoRAConfig,
    TextConfig,
    VisionConfig,
    read_config,
)
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import CLIP, CLIPSource, add_lora
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.errors import UserError


def test_taps_come_in_the_order_asked_for(tiny_clip, expected):
    taps = tiny_clip.vision(expected["pixel_values"], taps=(3, 1)).taps
    np.testing.assert_allclose(taps[0], expected["vision_hidden_3"], atol=1e-5)
    np.testing.assert_allclose(taps[1], expected["vision_hidden_1"], atol=1e-5)


def test_the_value_path_adds_v_v_attention_from_the_first_tap_on(tiny_clip, expected):
    """Against the definition, block by block; the usual path and CLS stay as they are."""
    pixels, vision = jnp.asarray(expected["pixel_values"]), tiny_clip.vision
    plain = vision(pixels, taps=(1, 2, 3))
    found = vision(pixels, taps=(2, 3), values=True)
    np.testing.assert_allclose(found.pooled, plain.pooled, atol=1e-6)
    patches = plain.taps[0]
    for tap in (2, 3):
        graph, state = nnx.split(vision.blocks)
        block = nnx.merge(graph, jax.tree.map(operator.itemgetter(tap - 1), state))
        v = block.v(block.norm1(plain.taps[tap - 2]))
        v = v.reshape(*v.shape[:2], block.heads, -1)
        out = attention(v, v, v, causal=False).reshape(patches.shape)
        patches = patches + block.out(out)
        np.testing.assert_allclose(found.taps[tap - 2], patches, atol=1e-5)


def test_five_tokens_give_the_same_as_the_padded_text(tiny_clip):
    short = np.array([[510, 7, 9, 3, 511]])
    padded = np.full((1, 20), 511)
    padded[:, :5] = short
    np.testing.assert_allclose(
        tiny_clip.encode_text(short), tiny_clip.encode_text(padded), atol=1e-6
    )


def test_embeddings_and_an_explicit_eot_give_the_text_features(tiny_clip, expected):
    ids = expected["input_ids"]
    eot = tiny_clip.eot_positions(ids)
    features = tiny_clip.text.encode(tiny_clip.text.embed(ids), eot)
    assert features.shape == (3, 24)
    features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
    np.testing.assert_allclose(features, expected["text_embeds"], atol=1e-5)
    one = tiny_clip.text.encode(tiny_clip.text.embed(ids[:1]), int(eot[0]))
    np.testing.assert_allclose(one[0] / jnp.linalg.norm(one), expected["text_embeds"][0], atol=1e-5)


def test_end_of_text_of_old_and_new_configurations(tiny_clip):
    ids = np.array([[510, 4, 511, 511], [510, 511, 511, 511]])
    np.testing.assert_array_equal(tiny_clip.eot_positions(ids), [2, 1])
    assert (tiny_clip.sot_id, tiny_clip.eot_id) == (510, 511)

    def with_text(**changes):
        text = dataclasses.replace(tiny_clip.config.text, **changes)
        graphdef, state = nnx.split(tiny_clip)
        clip = nnx.merge(graphdef, state)
        clip.config = dataclasses.replace(tiny_clip.config, text=text)
        return clip

    old = with_text(bos_token_id=0, eos_token_id=2)
    assert (old.sot_id, old.eot_id) == (510, 511)
    # The id 2 itself is an ordinary token there.
    np.testing.assert_array_equal(old.eot_positions(np.array([[510, 2, 4, 511, 0]])), [3])
    new = with_text(eos_token_id=9)
    np.testing.assert_array_equal(new.eot_positions(np.array([[510, 4, 9, 511, 9]])), [2])


def test_bfloat16_stays_close_and_returns_float32(tiny_folder, expected):
    clip = load_clip(tiny_folder, dtype=jnp.bfloat16, lora=LoRAConfig())
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(clip.vision, nnx.Param))}
    assert dtypes == {"bfloat16"}
    assert clip.vision.blocks.q.lora_a[...].dtype == jnp.float32
    features = clip.vision(expected["pixel_values"], taps=(4,))
    assert features.taps.dtype == jnp.bfloat16
    for found, wanted in (
        (clip.encode_image(expected["pixel_values"]), expected["image_embeds"]),
        (clip.encode_text(expected["input_ids"]), expected["text_embeds"]),
    ):
        assert found.dtype == jnp.float32
        assert np.all(np.sum(found * wanted, axis=-1) > 0.999)


def values_and_gradients_of_attention(function, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weight = (jax.random.normal(key, (2, 33, 3, 8)).astype(dtype) for key in keys)

    def weighted(*qkv):
        return jnp.sum((function(*qkv) * weight).astype(jnp.float32))

    return jax.jit(jax.value_and_grad(weighted, (0, 1, 2)))(q, k, v)


def plain_attention(q, k, v, causal=False):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(8.0)
    if causal:
        scores = jnp.where(jnp.arange(33)[:, None] >= jnp.arange(33), scores, -1e30)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_softmax_attention(causal):
    wanted = values_and_gradients_of_attention(lambda *qkv: plain_attention(*qkv, causal))
    found = values_and_gradients_of_attention(lambda *qkv: attention(*qkv, causal=causal))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


@pytest.mark.parametrize("block", [8, 11, 33, 64])
def test_attention_by_blocks_of_queries_equals_plain_attention(monkeypatch, block):
    """Blocks that divide the 33 queries and blocks that do not."""
    wanted = values_and_gradients_of_attention(plain_attention)
    monkeypatch.setattr(attention_module, "_DIRECT_SCORES", 0)
    monkeypatch.setattr(attention_module, "_BLOCK", block)
    found = values_and_gradients_of_attention(lambda *qkv: attention(*qkv, causal=False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


def test_attention_by_blocks_in_bfloat16_stays_close(monkeypatch):
    _, wanted = values_and_gradients_of_attention(plain_attention)
    monkeypatch.setattr(attention_module, "_DIRECT_SCORES", 0)
    monkeypatch.setattr(attention_module, "_BLOCK", 16)
    _, found = values_and_gradients_of_attention(
        lambda *qkv: attention(*qkv, causal=False), jnp.bfloat16
    )
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == jnp.bfloat16
        a = a.astype(jnp.float32)
        cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        assert cosine > 0.9999


def test_what_attention_keeps_for_the_backward_pass_is_not_the_scores(monkeypatch):
    monkeypatch.setattr(attention_module, "_DIRECT_SCORES", 0)
    monkeypatch.setattr(attention_module, "_BLOCK", 64)
    x = jax.ShapeDtypeStruct((1, 512, 8, 8), jnp.float32)

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, causal=False))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    all_scores = 8 * 512 * 512 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < all_scores / 4


def test_gelu_is_exact():
    """As of LAION's models; its usual approximation differs by up to 5e-4."""
    x = np.linspace(-4, 4, 81, dtype=np.float32)
    exact = [a * (1 + math.erf(a / 2**0.5)) / 2 for a in x.tolist()]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](jnp.asarray(x)), exact, atol=1e-6)


def small_config(depth: int, width: int) -> CLIPConfig:
    return CLIPConfig(
        vision=VisionConfig(width, 4 * width, depth, 4, patch_size=4, image_size=16),
        text=TextConfig(8, 16, 1, 2, vocab_size=16, max_position_embeddings=8),
        projection_dim=8,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_do_not_copy_the_frozen_weights(level):
    def build():
        clip = CLIP(small_config(8, 256), CLIPSource("test"), jnp.dtype("float32"), nnx.Rngs(0))
        add_lora(clip, LoRAConfig(rank=2), 0)
        return clip

    graphdef, trainable, frozen = nnx.split(nnx.eval_shape(build), Trainable, nnx.Param)

    def loss(trainable, frozen, pixels):
        clip = nnx.merge(graphdef, trainable, frozen)
        return jnp.sum(clip.vision(pixels, (2, 4, 8), Recompute(level)).taps ** 2)

    pixels = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(trainable, frozen, pixels).compile()
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(frozen))
    one_block = 12 * 256 * 256 * 4
    assert weights > 8 * one_block
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * one_block


def test_the_split_by_type_is_exhaustive_and_merges_back(tiny_folder, expected):
    clip = load_clip(tiny_folder, lora=LoRAConfig())
    graphdef, trainable, frozen = nnx.split(clip, Trainable, nnx.Param)
    leaves = jax.tree.leaves(trainable, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert len(leaves) == 4 and all(isinstance(leaf, LoRAParam) for leaf in leaves)
    run = jax.jit(lambda t, f, x: nnx.merge(graphdef, t, f).encode_image(x))
    found = run(trainable, frozen, expected["pixel_values"])
    np.testing.assert_allclose(found, expected["image_embeds"], atol=1e-5)


def test_random_weights_are_seeded_and_of_the_configuration(tiny_folder, expected):
    one, same, other = (load_clip(f"random:{tiny_folder}", seed=seed) for seed in (3, 3, 4))
    pixels = expected["pixel_values"]
    np.testing.assert_array_equal(one.encode_image(pixels), same.encode_image(pixels))
    assert np.abs(one.encode_image(pixels) - other.encode_image(pixels)).max() > 1e-3
    assert one.source == CLIPSource(f"random:{tiny_folder}")
    with pytest.raises(UserError, match="vit-large-patch14-336"):
        load_clip("random:vit-huge")


def test_kernels_of_a_stack_are_drawn_each_for_its_own_inputs():
    kernels = lecun_stacked(nnx.Rngs(0), (4, 400, 50))
    assert np.std(kernels) == pytest.approx(400**-0.5, rel=0.02)


def test_built_in_configurations_have_the_published_sizes():
    sizes = {}
    for name, config in BUILT_IN.items():
        clip = nnx.eval_shape(
            lambda config=config: CLIP(config, CLIPSource("x"), jnp.dtype("float32"), nnx.Rngs(0))
        )
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(clip)))
    assert sizes == {
        "vit-base-patch32": 151277313,
        "vit-base-patch16": 149620737,
        "vit-large-patch14": 427616513,
        "vit-large-patch14-336": 427944193,
    }


def test_class_words_have_built_in_ids(tiny_clip, caplog):
    config, source = BUILT_IN["vit-base-patch32"], CLIPSource("x")
    whole = nnx.eval_shape(lambda: CLIP(config, source, jnp.dtype("float32"), nnx.Rngs(0)))
    assert class_token_ids(whole, ["fake", "real"]) == [[5777], [1532]]
    assert class_token_ids(tiny_clip, ["real", "fake"]) == [[1532 % 510], [5777 % 510]]
    assert "no id 1532" in caplog.text


def test_other_class_words_need_a_tokenizer(tiny_clip):
    with pytest.raises(UserError, match="'authentic'.*vocab.json"):
        class_token_ids(tiny_clip, ["authentic", "fake"])


def test_running_clip_imports_no_transformers_and_no_other_framework(tiny_folder):
    code = """
import sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from flax import nnx
from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.clip.config import CLIPConfig, TextConfig, VisionConfig, read_config
read_config(Path(sys.argv[1]))
config = CLIPConfig(VisionConfig(8, 16, 2, 2, patch_size=4, image_size=8),
                    TextConfig(8, 16, 1, 2, vocab_size=16, max_position_embeddings=8), 8)
clip = CLIP(config, CLIPSource("x"), jnp.dtype("float32"), nnx.Rngs(0))
clip.encode_image(np.zeros((1, 8, 8, 3), np.float32))
clip.encode_text(np.zeros((1, 4), np.int32))
class_token_ids(clip, ["real", "fake"])
print([m for m in ("transformers", "huggingface_hub", "torch", "tensorflow") if m in sys.modules])
"""
    command = [sys.executable, "-c", code, str(tiny_folder / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"projection_dim": 768, "logit_scale_init_value": 3, "vision_config": None},
        {"vision_config": {"patch_size": 14, "image_size": 336}, "text_config": {"vocab_size": 9}},
        # As OpenAI's own files have it.
        {"text_config": {"hidden_size": 768, "eos_token_id": 2}, "text_config_dict": None},
        {"text_config": {"hidden_size": 768}, "text_config_dict": {"intermediate_size": 3072}},
        {"vision_config": {"num_hidden_layers": 3}, "vision_config_dict": {}},
    ],
)
def test_a_configuration_is_read_as_transformers_reads_it(raw, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(raw | {"model_type": "clip"}))
    found, right = read_config(tmp_path / "config.json"), transformers.CLIPConfig(**raw)
    towers = (found.vision, right.vision_config), (found.text, right.text_config)
    for ours, theirs in (*towers, (found, right)):
        for name in {field.name for field in dataclasses.fields(ours)} - {"vision", "text"}:
            assert getattr(ours, name) == getattr(theirs, name), name
