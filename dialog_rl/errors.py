"""The project's errors; drawn and defined in :mod:`reward_models.errors`, the bottom layer."""

from reward_models.errors import (
    ConfigError,
    DataError,
    DialogRLError,
    NotEnoughFeedback,
    NotFound,
    PolicyError,
    RegistryError,
    RewardError,
    StoreError,
    TrainingError,
)

__all__ = [
    "ConfigError",
    "DataError",
    "DialogRLError",
    "NotEnoughFeedback",
    "NotFound",
    "PolicyError",
    "RegistryError",
    "RewardError",
    "StoreError",
    "TrainingError",
]
