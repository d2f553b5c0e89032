"""The PPO agent and the rollout it learns from."""
