"""Pretraining of the demo's backbone: vocabulary, batches, objective, the shipped folder."""

import hashlib
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.generator.captions import HISTORY
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.clip.weights import save_clip
from sapl_jax.demo import pretrain
from sapl_jax.demo.captioned_batches import LOCAL, WORDS, Pictures, make_batch, phrases
from sapl_jax.demo.objective import build_clip, pretraining_loss, small_config
from sapl_jax.demo.vocabulary import EOT, SOT, Vocabulary
from sapl_jax.errors import UserError

ASSETS = Path(__file__).parents[2] / "sapl_jax" / "assets"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(WORDS)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    history = np.stack([rng.integers(0, len(words), 12) for words in HISTORY.values()], axis=1)
    # Each photograph is of one colour, so that a pixel tells which one it is from.
    pixels = np.broadcast_to(
        (20 * np.arange(12, dtype=np.uint8))[:, None, None, None], (12, 64, 64, 3)
    )
    noise = rng.integers(0, 9, (12, 64, 64, 3), dtype=np.uint8)
    return Pictures(pixels + noise, history.astype(np.int32), [("sky", "trees")] * 12)


def test_transformers_reads_the_vocabulary_and_gives_the_same_ids(vocabulary, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary.save(tmp_path)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    for word in WORDS:
        assert tokenizer(word).input_ids == vocabulary.encode([word], 3)
    assert vocabulary.ids[SOT] == vocabulary.size - 2
    assert vocabulary.ids[EOT] == vocabulary.size - 1


def test_words_outside_the_captions_are_spelled_rather_than_unknown(vocabulary, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary.save(tmp_path)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("quixotic", add_special_tokens=False).input_ids
    assert len(ids) > 1 and vocabulary.ids[EOT] not in ids


def test_every_patch_of_a_sheet_carries_the_words_of_its_own_photograph(
    pictures, vocabulary
) -> None:
    batch = make_batch(
        np.random.default_rng(1), pictures, vocabulary,
        size=40, canvas=48, patch=16, sheets=0.7,
    )  # fmt: skip
    assert 0 < batch.single.mean() < 1
    tiles = batch.image.reshape(40, 3, 16, 3, 16, 3).swapaxes(2, 3).reshape(40, 9, -1)
    owner = tiles.min(axis=2) // 20
    assert np.all(tiles.max(axis=2) // 20 == owner)
    np.testing.assert_array_equal(batch.history, pictures.history[owner])
    assert all(len(np.unique(one)) == 1 for one in owner[batch.single == 1])


def test_the_objective_is_chance_for_blind_features_and_falls_in_training(
    pictures, vocabulary
) -> None:
    config = small_config(vocabulary.size, 32, 16)
    clip = build_clip(config, pictures.pixels, seed=0)
    texts = phrases(vocabulary, LOCAL)
    batch = make_batch(
        np.random.default_rng(1), pictures, vocabulary,
        size=8, canvas=32, patch=16, sheets=0.5,
    )  # fmt: skip
    graph, params = nnx.split(clip)

    @jax.jit
    def step(params):
        def loss_of(params):
            return pretraining_loss(nnx.merge(graph, params), batch, texts[0], (1.0, 0.1))[0]

        loss, grads = jax.value_and_grad(loss_of)(params)
        return loss, jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)

    losses = []
    for _ in range(12):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    blind = nnx.merge(graph, params)
    blind.visual_projection.kernel.set_value(jnp.zeros_like(blind.visual_projection.kernel[...]))
    _, parts = pretraining_loss(blind, batch, texts[0], (1.0, 0.1))
    chance = np.mean([np.log(len(HISTORY[name])) for name in LOCAL])
    assert float(parts["patches"]) == pytest.approx(chance, abs=1e-4)


def test_a_saved_backbone_loads_and_resolves_class_words(vocabulary, pictures, tmp_path) -> None:
    clip = build_clip(small_config(vocabulary.size, 32, 16), pictures.pixels, seed=0)
    save_clip(clip, tmp_path)
    vocabulary.save(tmp_path)
    loaded = load_clip(tmp_path)
    ids = class_token_ids(loaded, ("real", "fake"))
    assert ids == [[vocabulary.ids["real</w>"]], [vocabulary.ids["fake</w>"]]]


def test_pretraining_on_photographs_never_opens_a_held_out_one(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(30):
        picture = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (160, 120))
        cv2.imwrite(str(folder / f"{n}.jpg"), picture)
        if int(hashlib.sha256(f"split/{n}".encode()).hexdigest()[:8], 16) / 2**32 >= 0.8:
            (folder / f"{n}.jpg").write_bytes(b"no picture: to open this fails")
    flags = (
        f"--output {tmp_path / 'clip'} --photographs {folder} --pictures 60 --size 64 --canvas 32 "
        "--patch 8 --width 64 --reach 1 --steps 2 --batch-size 4 --workers 1"
    )
    monkeypatch.setattr(sys, "argv", ["pretrain", *flags.split()])
    pretrain.main()
    first = load_clip(tmp_path / "clip")
    vision = first.config.vision
    assert (vision.patch_size, vision.hidden_size) == (8, 64)

    # Another run may go on from there: after no more than a step it is close to where it began.
    again = ["--start", str(tmp_path / "clip"), "--output", str(tmp_path / "more"), "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *flags.split(), *again])
    pretrain.main()
    kernels = [load_clip(tmp_path / n).vision.patch_kernel[...] for n in ("clip", "more")]
    gap, size = jnp.abs(kernels[1] - kernels[0]).max(), jnp.abs(kernels[0]).max()
    assert 0 < gap < 0.05 * size
    monkeypatch.setattr(sys, "argv", ["pretrain", *flags.split(), *again, "--width", "32"])
    with pytest.raises(UserError, match="--start .*other sizes"):
        pretrain.main()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--patch 0", "--patch is 0"),
        ("--pictures 0", "--pictures is 0"),
        ("--steps 0", "--steps is 0"),
        ("--learning-rate nan", "--learning-rate is nan"),
        ("--width 6", "--width 6: expected a multiple of 4"),
        ("--start /nowhere", "/nowhere"),
    ],
)
def test_numbers_that_cannot_be_followed_are_refused_before_pictures_are_made(
    tmp_path, monkeypatch, flag, message
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "--output", str(tmp_path / "o"), *flag.split()])
    monkeypatch.setattr(pretrain.batches, "make_pictures", lambda *_: pytest.fail("made pictures"))
    with pytest.raises(UserError, match=message):
        pretrain.main()


@pytest.mark.parametrize(
    ("name", "reach"), [("clip_patch16", 0), ("clip_patch8", 1), ("clip_photographs", 0)]
)
def test_a_shipped_backbone_is_small_and_tells_grainy_from_clean_pictures(name, reach) -> None:
    from data_pipelines.generator.captions import captioned_picture
    from sapl_jax.clip.blocks import l2_normalize
    from sapl_jax.models.sapl import normalize_pixels

    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 12e6
    clip = load_clip(ASSETS / name)
    found = [captioned_picture(77, n, 96) for n in range(40)]
    images = jnp.stack([one.picture for one in found])
    (tap,) = clip.vision(normalize_pixels(images), (4,), reach=reach).taps
    patches = l2_normalize(clip.visual_projection(clip.vision.post_norm(tap[:, 1:]))).mean(axis=1)
    vocabulary = Vocabulary(WORDS)
    text = clip.encode_text(jnp.asarray(phrases(vocabulary, ("grain",))[0]))
    guess = np.asarray(jnp.argmax(patches @ text.T, axis=1))
    truth = np.array([HISTORY["grain"].index(one.history[-1]) for one in found])
    assert np.corrcoef(guess, truth)[0, 1] > 0.6
