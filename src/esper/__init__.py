"""Esper: a recurrent PPO agent that grows neural networks, and the health of its action heads."""

__version__ = "0.2.0"
