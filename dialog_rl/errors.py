"""The project's errors; drawn and defined in :mod:`reward_models.errors`, the bottom layer."""

from reward_models.errors import (
    Busy,
    ConfigError,
    Conflict,
    DataError,
    DialogRLError,
    NotEnoughFeedback,
    NotFound,
    PolicyError,
    RegistryError,
    RewardError,
    StoreBusy,
    StoreError,
    StoreFull,
    TooLarge,
    TrainingError,
)

__all__ = [
    "Busy",
    "ConfigError",
    "Conflict",
    "DataError",
    "DialogRLError",
    "NotEnoughFeedback",
    "NotFound",
    "PolicyError",
    "RegistryError",
    "RewardError",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "TooLarge",
    "TrainingError",
]
