"""A page and an HTTP interface for single pictures; needs the extra "serve" (Gradio)."""
