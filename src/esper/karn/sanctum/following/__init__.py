"""Reading a run by cursor into snapshots: following, going back in time, searching."""
