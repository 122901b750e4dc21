"""The training stages; the only place that knows TRL."""

import os
import warnings

# The pin in pyproject is the answer to this warning: 1.12 is the last TRL with a PPOTrainer.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# TRL's trainers report to their makers at construction; what people teach here is nobody's else.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# peft 0.21 and TRL 1.12 ask transformers 5.23 by a name it has changed; nothing a user can mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
