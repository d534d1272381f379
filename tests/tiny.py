"""The shipped configuration shrunk to the tiny CLIP: the same code path, seconds on a CPU."""

from pathlib import Path

from ml_collections import ConfigDict

TINY_CLIP = Path(__file__).parent / "fixtures" / "hf_clip_tiny"


def tiny_configuration() -> ConfigDict:
    """configs/sapl.py with every size cut down; pictures of 28 pixels."""
    from configs.sapl import get_config

    config = get_config()
    config.clip.pretrained = str(TINY_CLIP)
    config.image.size = 28
    config.model.taps = (2, 4)
    config.model.prompt_length = 3
    config.model.attention_heads = 4
    config.model.hecl.top_k = 3
    config.model.hecl.queue_length = 8
    config.model.hecl.feature_dim = 8
    config.train.batch_size = 4
    config.train.num_steps = 6
    config.train.learning_rate = 1e-3
    config.train.log_every = 1
    config.train.eval_every = 3
    config.train.checkpoint_every = 3
    return config
