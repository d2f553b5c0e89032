"""Simic: reinforcement learning, here recurrent PPO, its telemetry and its checkpoints."""
