"""For photographs of one's own and forgeries made from them (`generate --photographs`).

configs/demo.py, but each authentic picture trains beside the forgery made from it, and the map is
trained by the mean over many patches: alone, the few that look most tampered find nothing to start
from. ECPL and HECL are off, as neither gave the map anything here. Figures: docs/evidence.md.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    """The configuration, locked."""
    config = demo.get_config()
    config.data.pairs = True
    config.image.size = 192
    config.clip.pretrained = str(demo.ASSETS / "clip_patch16")

    config.model.attention_reach = 0
    config.model.prompts = "fixed"
    config.model.hecl.enabled = False
    config.model.pooled_share = 0.4
    # Trained with CLIP's attention, which hands the verdict round; the map leaves it where it is.
    config.model.test_reach = 3
    heat_map = config.model.heat_map
    heat_map.tile = 192  # It learns from pictures that nothing has shrunk.
    # Near the best on forgeries of the photographs kept for validation: docs/evidence.md.
    heat_map.sigma = 28.0
    heat_map.colours = 0.15
    heat_map.normalize = 0.85

    train = config.train
    train.background_share = 0.0  # Its authentic twin says what of a picture is authentic.
    train.tampered_weight = 1.0
    train.epochs = 2.0
    train.eval_every = 500
    return config
