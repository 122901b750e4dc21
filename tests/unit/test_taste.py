"""Traits: where a candidate moved and what people like, found from a few dozen replies."""

import numpy as np

from dialog_rl.taste import TraitSpace, moved_direction, taste_direction

PLACES = ["Golden Fork", "Mill Lane", "Blue Door", "Old Oak", "Red Lion", "High Street"]
PLAIN = [f"It is {place}, number {n}." for n, place in enumerate(PLACES * 5)]
ASKING = [f"It is {place}, number {n}. Shall I book it?" for n, place in enumerate(PLACES * 5)]


def space_and_rows():
    plain, asking = [((), text) for text in PLAIN], [((), text) for text in ASKING]
    space = TraitSpace.of([*plain, *asking])
    return space.rows(plain), space.rows(asking)


def test_the_direction_a_candidate_moved_in_tells_its_replies_from_the_others():
    plain, asking = space_and_rows()
    moved = moved_direction(asking, plain)
    assert (asking @ moved).min() > (plain @ moved).max()


def test_the_taste_of_forty_ratings_prefers_what_was_liked():
    plain, asking = space_and_rows()
    rows = np.concatenate([plain[:20], asking[:20]])
    opinion = np.repeat([-1.0, 1.0], 20)
    taste = taste_direction(rows, opinion)
    # Judged on the ten of each that were not rated.
    assert (asking[20:] @ taste).min() > (plain[20:] @ taste).max()


def test_identical_replies_have_no_direction():
    plain, _ = space_and_rows()
    assert not moved_direction(plain, plain).any()
