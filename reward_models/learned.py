"""A reward learned from thumbs, stars, votes and corrections together.

    model, report = LearnedReward.fit(judgements, backbone=Backbone.load("path/to/model"))
    model.score(prompt, "Which day?")

One score r(conversation, reply), linear in standardised features of seven kinds: counts
(:mod:`reward_models.textual`), their squares (for tastes with a middle), the length as a spline,
terms (leading directions of a lexicon of the rated replies), products of those with the terms of
the conversation, hidden states of a frozen backbone, and how alike all of these are to rated
replies (:mod:`reward_models.likeness`). Every signal has its likelihood
(:mod:`reward_models.likelihood`). How far the features are trusted is found by leaving
conversations out; cross-validation over conversations says how well it all works. What depends on
the conversation alone (its words, and how the user writes, which tells who is generous) explains
ratings. The reward is the posterior mean less ``pessimism`` standard deviations, standardised and
bounded, without that part.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward_models.adapter import Offset, adapted, adapter_tensors, set_adapter_tensors, tune
from reward_models.base import Judgement, Message
from reward_models.crossval import HeldOut, ranking
from reward_models.encoder import Backbone
from reward_models.errors import RewardError
from reward_models.features import Featuriser
from reward_models.fitting import Prepared, Progress, cross_validate, fit_both, prepare, reader_of
from reward_models.head import Fit, Strengths, assemble, posterior_factor, spread
from reward_models.oddities import against_others, oddities
from reward_models.rules import reply_text, words
from reward_models.settings import RewardModelSettings, RewardReport
from reward_models.textual import REPLY_FEATURES, Lexicon, repeated_share

_REPEATS = 0.2
"""Share of repeated word trigrams that is never punished."""
_REPEATS_AT = REPLY_FEATURES.index("repeats")
_WEIGHTS, CARD_FILE = "reward.safetensors", "reward.json"
_ADAPTER = "adapter/"
_FORMAT = 10


@dataclass(frozen=True)
class ScoredReply:
    """What the learned reward says of one reply."""

    score: float
    """What PPO is paid: careful (mean less some spread), standardised and bounded."""
    mean: float
    """Expected score, in logits, without the conversation's own part."""
    spread: float
    """Its posterior standard deviation, in logits: large for replies unlike any rated one."""


class LearnedReward:
    """A fitted reward; call it like any TRL reward function."""

    def __init__(
        self,
        featuriser: Featuriser,
        strengths: Strengths,
        tensors: dict[str, Tensor],
        settings: RewardModelSettings,
        report: RewardReport,
    ) -> None:
        """Put the parts together; use :meth:`fit` or :meth:`load` instead.

        Args:
            featuriser: Makes the features.
            strengths: Of each block, in the order of the weight vector.
            tensors: ``weight`` (D,), ``foreseen`` (D,), ``factor`` (D, D), ``centre`` and ``scale``
                (scalars).
            settings: As fitted.
            report: As fitted.
        """
        self.__name__ = "learned"
        self.featuriser = featuriser
        self.strengths = strengths
        self.tensors = tensors
        self.settings = settings
        self.report = report

    @classmethod
    def fit(
        cls,
        judgements: Sequence[Judgement],
        *,
        backbone: Backbone | str | Path | None = None,
        settings: RewardModelSettings | None = None,
        progress: Progress | None = None,
    ) -> "tuple[LearnedReward, RewardReport]":
        """Learn from judgements.

        Args:
            judgements: Of any signals together; unusable ones are set aside and counted.
            backbone: The model that reads replies (the policy's own base, or any other); a name or
                path is loaded; None learns from counts and terms alone.
            settings: How.
            progress: Called with the share done and a few words.

        Raises:
            NotEnoughFeedback: too few judgements, or all of one kind; counts what is missing.
            RewardError: the backbone cannot be loaded.
        """
        began = time.perf_counter()
        say = progress or (lambda share, text: None)
        prepared = prepare(judgements, backbone=backbone, settings=settings, progress=progress)
        return cls.of(prepared, began=began, progress=say)

    @classmethod
    def of(
        cls, prepared: Prepared, *, began: float, progress: Progress
    ) -> "tuple[LearnedReward, RewardReport]":
        """Fit what :func:`reward_models.fitting.prepare` has read.

        Args:
            prepared: Judgements with their features; an adapter, if one is kept, changes them.
            began: ``time.perf_counter()`` at the start, for the report.
            progress: Called with the share done and a few words.
        """
        evidence, settings = prepared.evidence, prepared.settings
        progress(0.4, "weighing the features")
        strengths, offset, held = cross_validate(prepared, progress)
        progress(0.5, "fitting and checking")
        if settings.lora_r:
            prepared = _adapted(prepared, offset, progress)
        featuriser = prepared.featuriser
        foreseen, fit = fit_both(prepared.blocks, strengths, evidence, offset.rating)
        tensors = _freeze(prepared, strengths, foreseen, fit)
        report = _report(prepared, fit, held, strengths, tensors, began)
        progress(1.0, f"agrees with {report.agreement:.0%} of held-out judgements")
        return cls(featuriser, strengths, tensors, settings, report), report

    def moments(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the score in logits, shape (B,) each, no context part.

        Args:
            prompts: B conversations.
            replies: B replies.
        """
        if not len(replies):
            return torch.zeros(0).double(), torch.zeros(0).double()
        design = self.features(prompts, replies)
        mean = design @ self.tensors["weight"]
        return mean, spread(design, self.tensors["factor"])

    def features(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Tensor:
        """What the mean score is linear in, shape (B, D), zero where the conversation is described.

        Args:
            prompts: B conversations, at least one.
            replies: B replies.
        """
        items = [(tuple(p), r) for p, r in zip(prompts, replies, strict=True)]
        return assemble(self.featuriser.read_of_reply(items), self.strengths)

    def logits(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Return the ratings foreseen, in logits: what the conversation tells included."""
        items = [(tuple(p), r) for p, r in zip(prompts, replies, strict=True)]
        if not items:
            return []
        blocks = self.featuriser.scaled(self.featuriser.raw(items))
        found: list[float] = (assemble(blocks, self.strengths) @ self.tensors["foreseen"]).tolist()
        return found

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        **columns: Any,
    ) -> list[float | None]:
        """Score B completions; see :meth:`judge`."""
        found = self.judge(prompts, [reply_text(completion) for completion in completions])
        return [one.score for one in found]

    def judge(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> "list[ScoredReply]":
        """Score B replies: about 0 for a usual one, within plus or minus ``bound``.

        What nobody was shown cannot be learned, so two things are fixed: a reply without a word
        gets the lowest score, and one that repeats itself more than any rated reply did loses up
        to ``bound``.

        Args:
            prompts: B conversations.
            replies: B replies.
        """
        mean, spread = self.moments(prompts, replies)
        careful = mean - self.settings.pessimism * spread
        standard = (careful - self.tensors["centre"]) / self.tensors["scale"]
        bound = self.settings.bound
        fair: list[float] = (bound * torch.tanh(standard / bound)).tolist()
        limit = max(_REPEATS, float(self.featuriser.scalers["form"].high[_REPEATS_AT]))
        rows = zip(replies, fair, mean.tolist(), spread.tolist(), strict=True)
        found = []
        for reply, score, middle, width in rows:
            tokens = words(reply)
            over = max(0.0, repeated_share(tokens) - limit) / (1 - limit) if limit < 1 else 0.0
            score = max(-bound, score - bound * over) if tokens else -bound
            found.append(ScoredReply(score=score, mean=middle, spread=width))
        return found

    def score(self, prompt: Sequence[Message], completion: str) -> float:
        """Score one reply."""
        return self.judge([prompt], [completion])[0].score

    def save(self, folder: Path) -> None:
        """Write ``reward.safetensors`` and ``reward.json``.

        Args:
            folder: Made if missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        reader = self.featuriser.reader
        tensors = {**self.tensors, **self.featuriser.tensors()}
        tuned = {} if reader is None else adapter_tensors(reader.trunk)
        tensors |= {f"{_ADAPTER}{name}": tensor for name, tensor in tuned.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / _WEIGHTS)
        card = {
            "format": _FORMAT,
            "backbone": reader.backbone.name if reader else None,
            "width": reader.width if reader else 0,
            "tuned": bool(tuned),
            "lexicon": list(self.featuriser.lexicon.vocabulary),
            "heard": list(self.featuriser.heard.vocabulary),
            "strengths": list(self.strengths.items()),
            "settings": asdict(self.settings),
            "report": json.loads(self.report.to_json()),
        }
        (folder / CARD_FILE).write_text(json.dumps(card, indent=1), encoding="utf-8")

    @classmethod
    def load(
        cls, folder: Path, *, backbone: Backbone | str | Path | None = None
    ) -> "LearnedReward":
        """Read what :meth:`save` wrote.

        Args:
            folder: Where it is.
            backbone: The backbone it was fitted with; None loads it from where it came.

        Raises:
            RewardError: a file is missing or damaged, or the backbone is another one.
        """
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise RewardError(
                f"{folder} holds no reward model: {error}; fit one with `dialog-rl reward train` "
                "or LearnedReward.fit"
            ) from error
        if not isinstance(card, dict):
            raise RewardError(f"{folder / CARD_FILE} is damaged: it is no object; fit it again")
        if card.get("format") != _FORMAT:
            raise RewardError(
                f"{folder} is a reward model of format {card.get('format')}, this version reads "
                f"{_FORMAT}; fit it again"
            )
        settings = RewardModelSettings(**card["settings"])
        reader = reader_of(backbone or card["backbone"], settings) if card["backbone"] else None
        if reader is not None and reader.width != card["width"]:
            raise RewardError(
                f"{folder} was fitted on {card['backbone']} with hidden size {card['width']}, the "
                f"given backbone has {reader.width}; give the same backbone"
            )
        lexicon, heard = Lexicon(tuple(card["lexicon"])), Lexicon(tuple(card["heard"]))
        featuriser = Featuriser(lexicon, heard, {}, reader)
        try:
            featuriser.take_tensors(tensors)
            if reader is not None and settings.lora_r and card["tuned"]:
                trunk = adapted(reader, settings.lora_r)
                own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(_ADAPTER)}
                set_adapter_tensors(trunk, {k.removeprefix(_ADAPTER): v for k, v in own.items()})
                featuriser.reader = reader.with_trunk(trunk)
        except (KeyError, RuntimeError) as error:
            raise RewardError(f"{folder} is damaged: {error} is missing; fit it again") from error
        report = RewardReport.from_dict(card["report"])
        return cls(featuriser, dict(card["strengths"]), tensors, settings, report)


def _adapted(prepared: Prepared, offset: Offset, progress: Progress) -> Prepared:
    """Tune the backbone's adapter and, where it helps, read the replies again with it."""
    reader, settings = prepared.featuriser.reader, prepared.settings
    if reader is None:
        return prepared
    rows = [reader.ids(p, r) for p, r in prepared.evidence.items]
    trunk = tune(
        reader,
        rows,
        prepared.raw["hidden"],
        prepared.evidence,
        offset,
        r=settings.lora_r,
        epochs=settings.lora_epochs,
        seed=settings.seed,
        progress=lambda share, text: progress(0.5 + share / 2, text),
    )
    if trunk is None:
        return prepared
    featuriser, raw = prepared.featuriser, prepared.raw
    featuriser.reader = reader = reader.with_trunk(trunk)
    raw["hidden"] = reader.pooled(rows)
    raw["user"] = featuriser.users(prepared.evidence.items)
    featuriser.measure(raw)
    return Prepared.of(prepared.evidence, featuriser, raw, settings)


def _freeze(prepared: Prepared, strengths: Strengths, foreseen: Fit, fit: Fit) -> dict[str, Tensor]:
    """Collect what scoring needs; centre and scale are those of the careful score's mean part."""
    factor = posterior_factor(assemble(prepared.blocks, strengths), prepared.evidence, fit)
    free = assemble(prepared.free, strengths)
    mean = free @ fit.weight
    return {
        "weight": fit.weight,
        "foreseen": foreseen.weight.clone(),
        "factor": factor,
        "centre": mean.mean(),
        "scale": mean.std().clamp(min=1e-3),
        "mean_spread": spread(free, factor).mean(),
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    both = torch.stack([a.double(), b.double()])
    flat = bool((both.std(1) < 1e-9).any())
    return 0.0 if flat else float(torch.corrcoef(both)[0, 1])


def _slope(of: Tensor, by: Tensor) -> float:
    """Least-squares slope, 0 where nothing varies."""
    apart = by.double() - by.double().mean()
    spread = float(apart.square().sum())
    return float(apart @ of.double()) / spread if spread > 1e-9 else 0.0


def _report(
    prepared: Prepared,
    fit: Fit,
    held: HeldOut,
    strengths: Strengths,
    tensors: dict[str, Tensor],
    began: float,
) -> RewardReport:
    evidence, settings = prepared.evidence, prepared.settings
    reader = prepared.featuriser.reader
    agreed = ranking(evidence, held.worth, held.talk, seed=settings.seed)
    strict = ranking(evidence, held.worth, held.talk, seed=settings.seed, draws=1000, level=0.99)
    bias, trust = fit.rating.rater_bias.tolist(), fit.rating.trust.tolist()
    scores = assemble(prepared.free, strengths) @ fit.weight
    lengths = torch.tensor([math.log1p(len(words(reply))) for _, reply in evidence.items])
    return RewardReport(
        counts=evidence.counts(),
        dropped=evidence.dropped,
        raters=len(evidence.raters),
        groups=len(set(evidence.groups)),
        agreement=agreed.value,
        agreement_low=agreed.low,
        agreement_high=agreed.high,
        by_signal=agreed.by_signal,
        beats_chance=strict.low > 0.5,
        nll=held.nll,
        strengths=strengths,
        rater_bias=dict(zip(evidence.raters, bias, strict=True)),
        rater_trust=dict(zip(evidence.raters, trust, strict=True)) if trust else {},
        length_correlation=_correlation(scores, lengths),
        length_slope=_slope(scores, lengths / math.log(2)),
        position_lead=float(fit.rating.lead),
        signal_strength={
            name: float(log.exp())
            for name, log in (("retry", fit.rating.log_retry), ("end_rating", fit.rating.log_end))
            if bool(evidence.mask(name).any())
        },
        turn_recency=float(fit.rating.recency),
        generosity=float(fit.rating.generosity),
        mean_words=float(torch.expm1(lengths).mean()),
        spread=float(tensors["mean_spread"] / tensors["scale"]),
        backbone=reader.backbone.name if reader else "none",
        seconds=time.perf_counter() - began,
        notes=(*oddities(evidence), *against_others(evidence, fit.rating)),
    )
