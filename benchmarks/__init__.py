"""Benchmarks: the training step beside a PyTorch peer, inference, input, scaling."""
