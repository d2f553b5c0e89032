"""Watches any PyTorch training: finds the first non-finite value, names it, and records it."""
