"""``dialog-rl reward``: fit, use and examine the learned reward without training a policy."""
