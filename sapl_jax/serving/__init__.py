"""A page in the browser for looking at single pictures; needs the extra "serve" (Gradio)."""
