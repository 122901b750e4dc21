"""How raters turn a score into a judgement: the nuisance parameters of the likelihood.

Every judgement depends on one number, its latent: the score of a reply, the difference of two, or
the shared-out sum over a conversation. The likelihood's argument is

    x = factor * latent + shift

where the factor is the rater's trust times the signal's own strength, and the shift is how generous
the rater is (thumbs, stars, end ratings) or what standing first is worth (votes).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_models.evidence import Evidence
from reward_models.likelihood import (
    choice_nll,
    correction_nll,
    ordered_thresholds,
    retry_nll,
    stars_nll,
    thumb_nll,
    turn_shares,
)

_LOG_RETRY = math.log(0.4)
"""Log strength of a retry before anything is known."""


@dataclass
class RatingModel:
    """The parameters; tensors are float64."""

    intercept: Tensor
    """Thumb bias shared by all raters, scalar."""
    rater_bias: Tensor
    """Further thumb bias of each rater, shape (raters,)."""
    first_threshold: Tensor
    """Shape (scales,)."""
    gaps: Tensor
    """Shape (scales, most levels - 2); unused entries stay where they are."""
    log_tie: Tensor
    """Davidson's log v, scalar."""
    lead: Tensor
    """What standing first is worth in a vote, in logits, scalar."""
    log_retry: Tensor
    """Log of a retry's strength beside a vote's, scalar."""
    log_end: Tensor
    """Log of an end rating's strength beside that of stars on one reply, scalar."""
    recency: Tensor
    """How much more late turns count in an end rating, scalar; see ``turn_shares``."""
    generosity: Tensor
    """Deviation of how generous each person is who is not named, in logits, scalar; 0: all alike.

    Found by strength.py; a fit keeps it as it is. What a rating will be is foreseen with 0, what a
    reply is worth with the value found (fitting.py)."""
    trust: Tensor
    """How far each rater follows the score, shape (raters,); shape (0,): all alike, as with ones.

    Every score is multiplied by the trust of its rater before it enters a likelihood: 1 is as
    usual, 0 rates at random, below 0 rates the wrong way round. Source: the annotator's accuracy in
    GLAD (Whitehill et al. 2009), which is the discrimination of a two-parameter item response model
    (Birnbaum 1968). Found by trust.py; a fit keeps it as it is.
    """

    @classmethod
    def neutral(cls, evidence: Evidence) -> "RatingModel":
        """Start with no bias, evenly spaced thresholds and everybody trusted alike."""
        widest = max(evidence.levels, default=2)
        zeros = torch.zeros(len(evidence.levels), dtype=torch.float64)
        centre = torch.tensor([(k - 2) / 2 for k in evidence.levels], dtype=torch.float64)
        return cls(
            intercept=torch.zeros((), dtype=torch.float64),
            rater_bias=torch.zeros(len(evidence.raters), dtype=torch.float64),
            first_threshold=zeros - centre,
            gaps=torch.full((len(evidence.levels), max(0, widest - 2)), 0.5, dtype=torch.float64),
            log_tie=torch.tensor(-1.0, dtype=torch.float64),
            lead=torch.zeros((), dtype=torch.float64),
            log_retry=torch.tensor(_LOG_RETRY, dtype=torch.float64),
            log_end=torch.zeros((), dtype=torch.float64),
            recency=torch.zeros((), dtype=torch.float64),
            generosity=torch.zeros((), dtype=torch.float64),
            trust=torch.ones(0, dtype=torch.float64),
        )

    def tensors(self) -> list[Tensor]:
        """List the parameters that a fit moves, in the order of the fields."""
        return [
            self.intercept,
            self.rater_bias,
            self.first_threshold,
            self.gaps,
            self.log_tie,
            self.lead,
        ]

    def multipliers(self) -> list[Tensor]:
        """List the parameters that multiply others, in order; a fit leaves them as they are.

        Moved together with what they multiply they would grow without bound; see strength.py,
        trust.py.
        """
        return [self.log_retry, self.log_end, self.recency, self.generosity, self.trust]

    def penalty(self) -> Tensor:
        """Return the negative log prior: rater biases N(0, 0.7), the others weaker."""
        return (
            0.5 * (self.rater_bias / 0.7).square().sum()
            + 0.5 * (self.intercept / 3.0).square()
            + 0.5 * (self.first_threshold / 3.0).square().sum()
            + 0.5 * ((self.gaps - 0.5) / 1.5).square().sum()
            + 0.5 * (self.log_tie + 1.0).square()
            + 0.5 * (self.lead / 0.5).square()
        )

    def shares(self, turns: Tensor) -> Tensor:
        """Return how far each turn of E conversations counts, shape (E, T).

        Args:
            turns: Items, -1 beyond a conversation's end, shape (E, T).
        """
        return turn_shares((turns >= 0).sum(1), turns.shape[1], self.recency)

    def latents(self, evidence: Evidence, scores: Tensor) -> Tensor:
        """Return the latent of each judgement, shape (N,).

        Args:
            evidence: N judgements.
            scores: Of the items, shape (M,).
        """
        pair = (evidence.first != evidence.second).to(scores.dtype)
        latent = scores[evidence.first] - pair * scores[evidence.second]
        where = evidence.mask("end_rating")
        if not bool(where.any()):
            return latent
        turns = evidence.turns[where]
        total = (self.shares(turns) * scores[turns.clamp(min=0)]).sum(1)
        return latent.masked_scatter(where, total)

    def rows(self, evidence: Evidence, design: Tensor) -> Tensor:
        """Return what each latent is made of: latent = row . weight, shape (N, D).

        Args:
            evidence: N judgements.
            design: Features of the items, shape (M, D).
        """
        pair = (evidence.first != evidence.second).to(design.dtype)[:, None]
        rows = design[evidence.first] - pair * design[evidence.second]
        where = evidence.mask("end_rating")
        if bool(where.any()):
            turns = evidence.turns[where]
            shares = self.shares(turns).detach()
            # Turn by turn: all at once would hold T times as many rows.
            rows[where] = sum(
                (shares[:, t, None] * design[turns[:, t].clamp(min=0)])
                for t in range(turns.shape[1])
            )
        return rows

    def factor(self, evidence: Evidence) -> Tensor:
        """Return what each latent is multiplied by, shape (N,)."""
        one = self.log_tie.new_ones(())
        strength = torch.where(evidence.mask("retry"), self.log_retry.exp(), one)
        strength = torch.where(evidence.mask("end_rating"), self.log_end.exp(), strength)
        return strength * self.trust[evidence.rater] if len(self.trust) else strength

    def unnamed(self, evidence: Evidence) -> Tensor:
        """Return how far each latent follows the generosity of each unnamed person, shape (N, C).

        Whoever is not named is told apart by conversation, of which C are graded by such people; C
        is 0 where all are taken for alike. In standard deviations: 1 shifts the argument by
        ``generosity``. A random intercept of the conversation, as in a multilevel logistic
        regression (Gelman and Hill 2007, chapter 14).

        Args:
            evidence: N judgements.
        """
        number = evidence.unnamed()
        rows = (number >= 0).nonzero()[:, 0]
        people = int(number.max()) + 1 if len(rows) and float(self.generosity) else 0
        found = torch.zeros(len(number), people, dtype=torch.float64)
        if people:
            found[rows, number[rows]] = (self.generosity / self.factor(evidence))[rows]
        return found

    def argument(self, evidence: Evidence, latent: Tensor) -> Tensor:
        """Return x = factor * latent + shift of each judgement, shape (N,)."""
        generous = self.rater_bias[evidence.rater]
        shift = torch.where(evidence.mask("choice"), self.lead * evidence.order, 0.0)
        shift = torch.where(evidence.mask("thumb"), self.intercept + generous, shift)
        graded = evidence.mask("stars") | evidence.mask("end_rating")
        shift = torch.where(graded, generous, shift)
        return latent * self.factor(evidence) + shift

    def cuts(self, evidence: Evidence, number: int) -> Tensor:
        """Return the thresholds of one scale, shape (levels - 1,)."""
        gaps = self.gaps[number, : evidence.levels[number] - 2]
        return ordered_thresholds(self.first_threshold[number], gaps)

    def nll(self, evidence: Evidence, latent: Tensor) -> Tensor:
        """Negative log-likelihood of each judgement, shape (N,).

        Args:
            evidence: The judgements.
            latent: Shape (N,).
        """
        total = torch.zeros_like(latent)
        x = self.argument(evidence, latent)
        zero, value = torch.zeros_like(x), evidence.value
        mask = evidence.mask("thumb")
        parts = [(mask, thumb_nll(x[mask], value[mask]))]
        for number in range(len(evidence.levels)):
            mask = evidence.on_scale(number)
            cuts = self.cuts(evidence, number)
            parts.append((mask, stars_nll(x[mask], evidence.level[mask], cuts)))
        mask = evidence.mask("choice")
        parts.append((mask, choice_nll(x[mask], zero[mask], value[mask], self.log_tie)))
        mask = evidence.mask("correction")
        parts.append((mask, correction_nll(x[mask], zero[mask], value[mask])))
        mask = evidence.mask("retry")  # its strength is in x already
        parts.append((mask, retry_nll(x[mask], zero[mask])))
        for where, values in parts:
            total = total.masked_scatter(where, values)
        return total

    def derivatives(self, evidence: Evidence, latent: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of each loss by its latent, shape (N,) each.

        By x, with s = sigmoid: a thumb has s - y and s (1 - s); a level between cuts U and L has
        1 - s(U - x) - s(L - x) and s'(U - x) + s'(L - x); a vote E[t] - t and Var[t] with t = 1, 0,
        1/2 for win, loss, tie; a correction or retry w (s - 1) and w s (1 - s). By the chain rule
        the factor multiplies the first once and the second twice.

        Args:
            evidence: The judgements.
            latent: Shape (N,).
        """
        slope, curve = torch.zeros_like(latent), torch.zeros_like(latent)
        with torch.no_grad():
            x, factor = self.argument(evidence, latent), self.factor(evidence)
            right = torch.sigmoid(x)
            mask = evidence.mask("thumb")
            slope[mask] = right[mask] - evidence.value[mask]
            curve[mask] = right[mask] * (1 - right[mask])
            for number in range(len(evidence.levels)):
                mask = evidence.on_scale(number)
                bounds = bounded(self.cuts(evidence, number))
                upper = torch.sigmoid(bounds[evidence.level[mask] + 1] - x[mask])
                lower = torch.sigmoid(bounds[evidence.level[mask]] - x[mask])
                slope[mask] = 1 - upper - lower
                curve[mask] = upper * (1 - upper) + lower * (1 - lower)
            mask = evidence.mask("choice")
            gap = x[mask]
            logits = torch.stack([gap, torch.zeros_like(gap), gap / 2 + self.log_tie], dim=-1)
            win, _, tie = torch.softmax(logits, dim=-1).unbind(-1)
            mean = win + tie / 2
            slope[mask] = mean - (1 - evidence.value[mask] / 2)
            curve[mask] = win + tie / 4 - mean.square()
            mask = evidence.mask("correction") | evidence.mask("retry")
            weight = torch.where(evidence.mask("retry"), 1.0, evidence.value)[mask]
            slope[mask] = weight * (right[mask] - 1)
            curve[mask] = weight * right[mask] * (1 - right[mask])
        return slope * factor, (curve * factor.square()).clamp(min=1e-8)


def bounded(cuts: Tensor) -> Tensor:
    """Put minus and plus infinity around thresholds: level k lies between bounds k and k + 1."""
    ends = cuts.new_tensor([torch.inf])
    return torch.cat([-ends, cuts, ends])
