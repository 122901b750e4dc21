"""The likeness of exchanges: a Gaussian kernel as features."""

import torch

from reward_models.fitting import prepare
from reward_models.likeness import Likeness
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import asking, rate

QUICK = RewardModelSettings(strength_search=False)


def blocks(rows: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "form": torch.randn(rows, 4, generator=generator).double(),
        "heard": torch.randn(rows, 3, generator=generator).double(),
        "squares": torch.randn(rows, 5, generator=generator).double(),
    }


def test_with_every_reply_a_landmark_the_features_are_the_kernel():
    some = blocks(30, 0)
    rows = torch.cat([some["form"], some["heard"]], dim=1)  # squares are not compared
    apart = torch.cdist(rows, rows).square()
    kernel = torch.exp(-apart / apart[apart > 1e-6].median())
    centre = torch.eye(30).double() - 1 / 30
    found = Likeness.of(some)(some).double()
    found = found - found.mean(0)
    assert torch.allclose(found @ found.T, centre @ kernel @ centre, atol=1e-3)


def test_with_fewer_landmarks_the_features_hold_less_than_the_kernel_and_most_of_it():
    some = blocks(200, 0)
    whole, half = Likeness.of(some)(some), Likeness.of(some, most=100)(some)
    assert half.shape[1] <= 99
    assert 0.5 < float(half.var(0).sum() / whole.var(0).sum()) < 1.0


def test_far_from_every_rated_reply_the_features_do_not_grow():
    some = blocks(50, 0)
    likeness = Likeness.of(some)
    usual = likeness(some).norm(dim=1).max()
    far = {name: 1e6 * block for name, block in blocks(10, 1).items()}
    assert bool((likeness(far).norm(dim=1) <= usual).all())


def test_replies_that_are_all_the_same_give_one_flat_feature():
    same = {"form": torch.ones(5, 3).double()}
    assert Likeness.of(same)(same).std(0).max() < 1e-6


def test_an_average_reply_is_as_good_in_every_conversation():
    featuriser = prepare(rate(asking, 60), settings=QUICK).featuriser
    some = {name: block[:5] for name, block in prepare(rate(asking, 60)).blocks.items()}
    own = ("context", "heard")
    average = {n: b if n in own else torch.zeros_like(b) for n, b in some.items()}
    average["likeness"] = featuriser.scalers["likeness"](featuriser.likeness(average))
    free = featuriser.of_reply(average)
    assert max(float(block.abs().max()) for block in free.values()) == 0.0
