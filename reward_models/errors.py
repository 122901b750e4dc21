"""The errors a user can meet, as one small tree.

DialogRLError                 anything we can explain in a sentence; the CLI prints it as one line
├── RewardError               a reward function or a reward model cannot do what was asked
│   └── NotEnoughFeedback     too few ratings, or all of one kind; counts what is missing
├── ConfigError               a setting has a value that is not allowed
├── DataError                 a file, a record or a message cannot be used
│   └── TooLarge              a message or a file is longer than what is allowed
├── Busy                      at the limit, or somebody is at it already; try again in a moment
├── StoreError                the feedback store refused or could not be reached
│   ├── Conflict              the same idempotency key came with other content
│   ├── NotFound              no such conversation, reply, adapter or run (or it is not yours)
│   ├── StoreBusy             another program holds the store; nothing was written, try again
│   └── StoreFull             no space left; nothing was written, free some and try again
├── PolicyError               a model or an adapter cannot be loaded or used
├── TrainingError             a run stopped, with the reason in one plain sentence
└── RegistryError             an adapter version cannot be listed, promoted or rolled back

``dialog_rl.errors`` re-exports all of them; they are defined here because this is the bottom layer.
Each message says what was wrong, what was got, what is allowed and what to do next.
"""


class DialogRLError(Exception):
    """Anything the user can act on; its text is one line."""


class RewardError(DialogRLError):
    """A reward function or reward model failed or was misused."""


class NotEnoughFeedback(RewardError):
    """Too few ratings, or ratings of one kind only; says how many of what are missing."""


class ConfigError(DialogRLError):
    """A setting is unknown or its value is not allowed."""


class DataError(DialogRLError):
    """A file, record or message cannot be used."""


class TooLarge(DataError):
    """A message or file is longer than what is allowed."""


class Busy(DialogRLError):
    """Too much at once, or somebody is at it already: the same request may work in a moment."""


class StoreError(DialogRLError):
    """The feedback store refused a write or could not be reached."""


class Conflict(StoreError):
    """The same idempotency key was used for other content."""


class NotFound(StoreError):
    """There is no such object, or it belongs to somebody else."""


class StoreBusy(StoreError):
    """Another program holds the store; nothing was written, retrying is safe (HTTP 503)."""


class StoreFull(StoreError):
    """No space left for the store; nothing was written, retrying is safe (HTTP 507)."""


class PolicyError(DialogRLError):
    """A base model or an adapter cannot be loaded or used."""


class TrainingError(DialogRLError):
    """A training run stopped for a reason it can name."""


class RegistryError(DialogRLError):
    """An adapter version is missing, damaged or cannot be promoted."""
