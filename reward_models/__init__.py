"""Rewards for dialogue: rules, composites and models learned from people's feedback.

The bottom layer of the project. It scores replies and imports nothing of dialog_rl or apps.
"""
