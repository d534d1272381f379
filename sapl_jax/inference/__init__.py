"""A trained model and pictures in, scores and maps out."""
