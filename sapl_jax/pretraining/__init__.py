"""Pretraining of the demo's small CLIP on generated photographs and captions."""
