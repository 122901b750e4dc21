"""Data and recipes that ship with dialog_rl."""
