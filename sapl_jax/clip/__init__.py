"""CLIP in Flax NNX: vision and text towers, LoRA, and loading of Hugging Face files."""
