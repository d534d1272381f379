"""SAPL on top of CLIP: prompts with soft edges (ECPL), edge contrast (HECL), localization."""
