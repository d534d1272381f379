"""The demo: configs/sapl.py made small, for two CPU cores and a backbone that is shipped.

Its pictures are of the world `seam`: a forgery differs from its picture at its outline only.
Everything not named here is as in configs/sapl.py, and the code is the same.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import sapl

ASSETS = Path(__file__).parents[1] / "sapl_jax" / "assets"


def get_config() -> ConfigDict:
    """The demo's configuration, locked."""
    config = sapl.get_config()
    config.data.dataset = "folder"
    config.data.flip_vertical = True  # Traces of processing have no upright side.

    config.image.size = 128  # The size of the generated pictures: no trace is resized away.

    config.clip.pretrained = str(ASSETS / "clip_patch8")
    config.model.attention_reach = 1  # As it was pretrained: what a patch saw stays where it is.

    # Patches keep their own verdict better when the attention stays as it was.
    config.clip.lora_targets = ("fc1", "fc2")

    config.model.taps = (1, 2, 3, 4)
    config.model.image_logits = "patches"  # Trains the heat map itself: see docs/method.md.
    config.model.pooled_share = 1 / 12
    config.model.test_views = True
    config.model.hecl.top_k = 12  # Of 256 patches; the paper's size has 16 of 1369.
    config.model.hecl.givers = "tampered_both"  # A verdict of patches says no more than they do.
    # Both near the best on pictures made for that: docs/evidence.md. Only an outline tells such a
    # forgery, so its map is smoothed widely, and no one level of heat fits small and large ones.
    config.model.heat_map.sigma = 16.0
    config.model.heat_map.normalize = 0.85

    train = config.train
    train.batch_size = 16
    train.epochs = 3.0
    train.learning_rate = 1.5e-3  # A twentieth of the paper's pictures: the steps must be larger.
    train.tampered_weight = 2.0  # The background term alone would have too much found authentic.
    train.background_share = 0.75  # The generator's forgeries cover a quarter at most.
    train.warmup_steps = 50
    train.schedule = "cosine"
    train.keep = "best"
    train.remat = "none"  # So small a model has memory to spare.
    train.eval_every = 200
    train.checkpoint_every = 100
    train.eval_batch_size = 20
    return config
