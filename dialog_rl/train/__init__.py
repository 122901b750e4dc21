"""The training stages; the only place that knows TRL."""

import os

# The pin in pyproject is the answer to this warning: 1.12 is the last TRL with a PPOTrainer.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# TRL's trainers report to their makers at construction; what people teach here is nobody's else.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
