"""Training entries with new names and numbers; what users ask for and the test split stay."""

import json
from pathlib import Path

import numpy as np

from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.domain import Domain, load_domain
from dialog_rl.envs.fresh import freshened, letter_chain, made_up
from dialog_rl.simulate import converse, scripted_agent


def fresh(domain: Domain, share: float, seed: int = 0) -> Domain:
    return freshened(domain, letter_chain(domain), share, np.random.default_rng(seed))


def test_names_and_numbers_are_new_and_conditions_stay(concierge: Domain) -> None:
    made = fresh(concierge, 1.0)
    old = {
        word
        for e in concierge.entries
        if e.split == "train"
        for word in e.fields.get("name", "").split()
    }
    words = [
        word
        for e in made.entries
        if e.split == "train"
        for word in e.fields.get("name", "").split()
        if len(word) >= 4
    ]
    assert sum(word in old for word in words) < 0.1 * len(words)  # a chain may hit a real word
    for before, after in zip(concierge.entries, made.entries, strict=True):
        conditions = {c.field for c in concierge.kinds[before.kind].conditions}
        assert {f: after.fields[f] for f in conditions} == {f: before.fields[f] for f in conditions}
        if before.kind == "train":
            assert after.fields["departs"] == before.fields["departs"]
        if before.split == "train" and "phone" in before.fields:
            phone = after.fields["phone"]
            assert phone.isdigit() and len(phone) == 4 and phone[0] != "0"
    phones = [(a.fields["phone"], b.fields["phone"])
              for a, b in zip(concierge.entries, made.entries, strict=True)
              if a.split == "train" and "phone" in a.fields]  # fmt: skip
    assert sum(a == b for a, b in phones) <= 1


def test_the_test_split_is_neither_read_nor_changed(concierge: Domain) -> None:
    made = fresh(concierge, 1.0)
    for kind in concierge.kinds:
        assert made.pool(kind, "test") == concierge.pool(kind, "test")
    only_train = json.loads(json.dumps(sorted(letter_chain(concierge))))
    chain = letter_chain(concierge)
    word = "zyxq"
    assert f"  {word}"[:2] in only_train
    assert not any(pair in chain for pair in ("zy", "yx", "xq"))  # stands in no training name


def test_the_same_seed_gives_the_same_names_and_none_changes_at_share_zero(
    concierge: Domain,
) -> None:
    assert fresh(concierge, 0.5, seed=3) == fresh(concierge, 0.5, seed=3)
    assert fresh(concierge, 0.5, seed=3) != fresh(concierge, 0.5, seed=4)
    assert fresh(concierge, 0.0) is concierge


def test_made_up_words_have_four_to_nine_letters(concierge: Domain) -> None:
    rng, chain = np.random.default_rng(0), letter_chain(concierge)
    words = {made_up(chain, rng) for _ in range(300)}
    assert len(words) > 200
    assert all(4 <= len(word) <= 9 and word.isalpha() for word in words)


def test_the_scripted_agent_still_serves_every_user_of_a_freshened_domain(
    concierge: Domain, cinema_file: Path
) -> None:
    for domain in (concierge, load_domain(cinema_file)):
        made = fresh(domain, 1.0)
        episodes = converse(
            scripted_agent(),
            lambda made=made: DialogEnv(made),  # type: ignore[misc]
            range(40),
            batch_size=40,
            version="scripted",
        )
        assert all(e.success for e in episodes)
