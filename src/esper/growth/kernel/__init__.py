"""Batched layers, blending and Adam for many networks at once (docs/kernels.md)."""
