"""Tamiyo: the policy that decides when and how a network grows."""
