"""SAPL in JAX: weakly supervised image manipulation localization with CLIP prompts."""
