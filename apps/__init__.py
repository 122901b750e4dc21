"""The chat page and its HTTP face."""
