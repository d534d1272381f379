"""The towers give what the Hugging Face library gives, from each of its three file formats."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.clip.attention import attention
from sapl_jax.clip.blocks import KEEP, run_blocks
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.towers import bicubic_matrix

FORMATS = ["flax_model.msgpack", "model.safetensors", "pytorch_model.bin"]


def assert_same(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", FORMATS)
def test_every_hidden_state_embedding_and_logit(file, folder_with, expected):
    clip = load_clip(folder_with(file))
    assert clip.source.file == file

    vision = clip.vision(expected["pixel_values"], taps=(0, 1, 2, 3, 4))
    for k in range(5):
        assert_same(vision.taps[k], expected[f"vision_hidden_{k}"])
    ids = expected["input_ids"]
    x = clip.text.embed(ids) + clip.text.positions[...][: ids.shape[1]]
    attend = functools.partial(attention, causal=True)
    text, _ = run_blocks(clip.text.blocks, x, (0, 1, 2, 3), attend, KEEP, values=False)
    for k in range(4):
        assert_same(text[k], expected[f"text_hidden_{k}"])

    image_embeds = clip.encode_image(expected["pixel_values"])
    text_embeds = clip.encode_text(expected["input_ids"])
    assert_same(image_embeds, expected["image_embeds"])
    assert_same(text_embeds, expected["text_embeds"])
    logits = jnp.exp(clip.logit_scale[...]) * image_embeds @ text_embeds.T
    assert_same(logits, expected["logits_per_image"])


def test_larger_picture_interpolates_positions(tiny_clip, expected):
    found = tiny_clip.vision(expected["large_pixel_values"], taps=(4,))
    assert_same(found.taps[0], expected["large_last_hidden"])
    assert_same(found.pooled, expected["large_pooled"])


def test_projecting_the_last_cls_gives_the_image_embedding(tiny_clip, expected):
    cls = tiny_clip.vision(expected["pixel_values"], taps=(4,)).taps[0, :, 0]
    projected = np.asarray(tiny_clip.visual_projection(tiny_clip.vision.post_norm(cls)))
    projected = projected / np.linalg.norm(projected, axis=-1, keepdims=True)
    assert_same(projected, expected["image_embeds"])


def test_bicubic_uses_pytorchs_coefficient_and_repeats_borders():
    # 2 -> 4 by hand: distances 0.25, 0.75, 1.25, 1.75 with a = -0.75.
    near, mid, far, farther = 0.87890625, 0.26171875, -0.10546875, -0.03515625
    row0 = [farther + mid + near, far]  # centre -0.25: the border stands in for -2 and -1
    row1 = [far + near, mid + farther]  # centre 0.25
    expected_rows = np.array([row0, row1, row1[::-1], row0[::-1]])
    np.testing.assert_allclose(bicubic_matrix(2, 4), expected_rows, atol=1e-6)


@pytest.mark.parametrize(("n_in", "n_out"), [(24, 37), (37, 24), (5, 5)])
def test_bicubic_keeps_a_constant_and_the_identity(n_in, n_out):
    matrix = bicubic_matrix(n_in, n_out)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if n_in == n_out:
        np.testing.assert_allclose(matrix, np.eye(n_in), atol=1e-7)
