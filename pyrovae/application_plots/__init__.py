"""Figures of what a model is used for: each takes tensors and returns a matplotlib `Figure`."""
