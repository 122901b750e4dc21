"""What simulated users think of the replies they got, as ratings that ``dialog-rl import`` reads.

A thumb up for a reply that brought the user further and held no wrong fact, a thumb down for any
other: ``dialog-rl reward train`` and ``dialog-rl train`` then learn from them as from people's.
"""

from collections.abc import Sequence
from typing import Any

from dialog_rl.envs.measures import Episode

RATER = "simulated-users"
"""One rater for all: they judge alike, and trust in a rater needs some tens of ratings."""


def rating_lines(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Rate every reply; replies of one conversation stay on one side of a split.

    Args:
        episodes: of any versions.

    Returns:
        One object per reply, in the ``ratings`` shape of ``dialog-rl import``.
    """
    lines: list[dict[str, Any]] = []
    for episode in episodes:
        steps = iter(episode.steps)
        for place, message in enumerate(episode.messages):
            if message["role"] != "assistant":
                continue
            step = next(steps)
            lines.append(
                {
                    "context": list(episode.messages[:place]),
                    "reply": message["content"],
                    "ratings": [float(step.helped and not step.grounding_errors)],
                    "scale": [0.0, 1.0],
                    "rater": RATER,
                    "group": f"{episode.version}-{episode.seed}",
                    "system": episode.version,
                }
            )
    return lines
