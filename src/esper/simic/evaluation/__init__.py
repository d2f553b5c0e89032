"""Comparing trained policies with baselines."""
