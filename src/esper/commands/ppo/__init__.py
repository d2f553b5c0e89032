"""`esper ppo`: train the agent, in this process or in one behind Sanctum."""
