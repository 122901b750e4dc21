"""Conversational agents that get better from people's feedback."""

__version__ = "0.1.0"
