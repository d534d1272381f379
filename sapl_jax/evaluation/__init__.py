"""Metrics, protocols, robustness sweeps and reports; needs neither TensorFlow nor the model."""
