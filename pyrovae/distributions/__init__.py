"""Distributions that neither Pyro nor PyTorch has, or has in a form that is not accurate enough."""
