"""For localizing from image labels only: configs/sapl.py with a loss on the map that is shown.

The paper's classification trains the class token alone; the map of the patches follows only through
what the two share. Here both are trained. Everything not named is as in configs/sapl.py. What it
gains was measured at the demo's size only: docs/evidence.md.
"""

from ml_collections import ConfigDict

from configs import sapl


def get_config() -> ConfigDict:
    """The configuration, locked."""
    config = sapl.get_config()
    config.data.jpeg_share = 0.5  # CASIA's classes can be told by their file formats otherwise.
    # Attention's keys and queries stay as they were: patches keep their own verdict better.
    config.clip.lora_targets = ("v", "out", "fc1", "fc2")

    config.model.image_logits = "both"  # The class token's loss and one of the patches.
    config.model.tap_affine = True  # Depths that tell more may weigh more.

    train = config.train
    train.background_share = 1.0  # Every patch of an authentic picture is authentic: its label.
    train.background_of = "authentic"
    train.warmup_steps = 500
    train.schedule = "cosine"
    return config
