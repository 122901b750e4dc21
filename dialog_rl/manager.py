"""The dialog manager: the one place where prompts are made, for chat, rollout and evaluation.

A prompt is the system prompt and as many of the newest turns as fit the context budget, whole. What
was kept is part of the result, so that a reply can be stored with exactly what it was made of.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from dialog_rl.candidates import Choice
from dialog_rl.choosing import Chooser, Choosers, ChosenReply, candidate_seeds
from dialog_rl.conversation import BASE_VERSION, SamplingParams
from dialog_rl.decode_on import Ask
from dialog_rl.errors import DataError, PolicyError
from dialog_rl.policy import Policy
from dialog_rl.precision import Precision
from dialog_rl.token_stream import Generation, TokenStream
from reward_models.base import Message
from reward_models.chat_template import render_ids

CONTEXT_BUDGET = 768
"""Most prompt tokens unless told otherwise."""
MAX_MESSAGE_CHARS = 20_000
"""Longer messages are refused before anything is tokenised."""

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a reply is made from."""

    messages: tuple[Message, ...]
    """The messages that were kept, system prompt first."""
    ids: tuple[int, ...]
    """Their token ids, generation prompt included."""
    dropped: int
    """How many older messages did not fit the context budget."""


@dataclass(frozen=True, kw_only=True)
class DraftReply:
    """A sampled reply with everything it was made of; the caller gives it an id and stores it."""

    prompt: Prompt
    generation: Generation
    params: SamplingParams
    seed: int
    version: str


class StreamingReply:
    """The text of one reply as it grows: iterate for text deltas, then read ``draft``."""

    def __init__(
        self, stream: TokenStream, prompt: Prompt, params: SamplingParams, seed: int, version: str
    ) -> None:
        self.prompt = prompt
        self.version = version
        self._stream = stream
        self._params = params
        self._seed = seed

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next piece of text; joined they are the reply's text."""
        while True:
            delta = next(self._stream).text_delta
            if delta:
                return delta

    def close(self) -> None:
        """Stop the reply where it is; ``draft`` then says ``cancelled``."""
        self._stream.close()

    @property
    def draft(self) -> DraftReply:
        """The reply so far; complete once the iteration has ended."""
        return DraftReply(
            prompt=self.prompt,
            generation=self._stream.generation,
            params=self._params,
            seed=self._seed,
            version=self.version,
        )


def check_message(text: str, role: str = "user") -> None:
    """Refuse a message that cannot be used, before it costs anything.

    Raises:
        DataError: too long, not a string, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise DataError(f"a message must be text, got {type(text).__name__}")
    if len(text) > MAX_MESSAGE_CHARS:
        raise DataError(
            f"the {role} message has {len(text):,} characters; at most {MAX_MESSAGE_CHARS:,} are "
            "allowed: shorten it"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the {role} message is not valid Unicode (a lone surrogate at character "
            f"{error.start + 1}); remove it"
        ) from error


def _usable(message: Message) -> bool:
    try:
        check_message(message["content"], message["role"])
    except DataError:
        return False
    return True


@dataclass(frozen=True)
class Turn:
    """A conversation that waits for a reply."""

    key: int
    """What the asker calls it."""
    messages: Sequence[Message]
    seed: int


class DialogManager:
    """Turns conversations into prompts and prompts into replies, the same way for everybody."""

    def __init__(
        self,
        policy: Policy,
        *,
        context_budget: int = CONTEXT_BUDGET,
        params: SamplingParams | None = None,
    ) -> None:
        """Bind a policy.

        Args:
            policy: who answers.
            context_budget: most prompt tokens; lowered so that prompt and reply fit the model.
            params: how replies are sampled unless a call says otherwise.

        Raises:
            PolicyError: the model's positions leave no room for a prompt.
        """
        self.policy = policy
        self.params = params or SamplingParams()
        self.choosers: Choosers = dict[str, Chooser]()
        """By version: who picks its replies among several candidates; the others just sample."""
        room = context_budget
        positions = getattr(policy.model.config, "max_position_embeddings", None)
        if isinstance(positions, int):
            room = min(room, positions - self.params.max_new_tokens)
        if room < 16:
            raise PolicyError(
                f"context_budget {context_budget} and max_new_tokens {self.params.max_new_tokens} "
                f"leave {room} tokens for the prompt (the model has {positions} positions); "
                "at least 16 are needed: lower max_new_tokens"
            )
        self.context_budget = room

    def build_prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt for the next assistant turn: system prompt and the newest turns, whole.

        A turn is a user message with what follows it up to the next user message. The newest turn
        and the system prompt are always kept; older turns are dropped, oldest first, until the
        prompt fits ``context_budget`` tokens (an older message that ``check_message`` refuses
        ends the part that is kept).

        Raises:
            DataError: a message cannot be used, or the system prompt and the newest turn alone do
                not fit.
            PolicyError: the chat template refuses the roles.
        """
        self._check(messages)
        head = list(messages[:1]) if messages[0]["role"] == "system" else []
        body = list(messages[len(head) :])
        # Most conversations fit: one look at the whole instead of one for every turn.
        usable = all(map(_usable, body))
        if usable and sum(len(m["content"]) for m in body) <= 8 * self.context_budget:
            whole = render_ids(self.policy.tokenizer, messages)
            if len(whole) <= self.context_budget:
                return Prompt(messages=tuple(messages), ids=tuple(whole), dropped=0)
        starts = [i for i, message in enumerate(body) if message["role"] == "user"]
        kept, ids = len(body), None
        for start in [*reversed(starts), 0]:
            if start >= kept or not all(map(_usable, body[start:kept])):
                break
            tried = render_ids(self.policy.tokenizer, head + body[start:])
            if len(tried) > self.context_budget:
                if ids is None:
                    raise DataError(
                        f"the system prompt and the newest message have {len(tried)} tokens; at "
                        f"most {self.context_budget} fit: shorten one of them"
                    )
                break
            kept, ids = start, tried
        assert ids is not None  # the newest user message was found by _check
        return Prompt(messages=tuple(head + body[kept:]), ids=tuple(ids), dropped=kept)

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether a prompt can be made of it, rather than :meth:`build_prompt` refusing it."""
        try:
            self.build_prompt(messages)
        except DataError:
            return False
        return True

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        seeds: Sequence[int],
        params: SamplingParams | None = None,
        version: str = BASE_VERSION,
        model: nn.Module | None = None,
        precision: Precision | None = None,
    ) -> list[DraftReply]:
        """One sampled reply to each conversation, decoded together.

        ``model`` is a live module (in training) that answers in place of ``version``;
        ``precision`` as in ``Policy.generate``.

        Raises:
            DataError: a conversation cannot be used.
            PolicyError: the version is unknown.
        """
        params = params or self.params
        prompts = [self.build_prompt(messages) for messages in conversations]
        if model is None and (chooser := self.choosers.get(version)) is not None:
            return self._chosen(prompts, params, seeds, version, chooser)
        generations = self.policy.generate(
            [prompt.ids for prompt in prompts],
            params,
            seeds,
            version=version,
            model=model,
            precision=precision,
        )
        return [
            DraftReply(prompt=p, generation=g, params=params, seed=s, version=version)
            for p, g, s in zip(prompts, generations, seeds, strict=True)
        ]

    def converse(
        self,
        turns: Sequence[Turn],
        hear: Callable[[int, str], Turn | None],
        *,
        version: str = BASE_VERSION,
        precision: Precision | None = None,
    ) -> None:
        """Reply in conversations that go on, until none does (``Policy.generate_on``).

        Args:
            turns: conversations that wait for a reply; at most as many are in work at once.
            hear: is given a conversation's key and the reply, returns the turn that is next there,
                or in a conversation that takes its place, or None.
            version: which adapter version replies; without its chooser, if it has one.
            precision: as in ``Policy.generate``.

        Raises:
            DataError: a conversation cannot be used.
            PolicyError: the version is unknown.
        """

        def ask(turn: Turn) -> Ask:
            return Ask(turn.key, self.build_prompt(turn.messages).ids, turn.seed)

        def respond(key: int, said: Generation) -> Ask | None:
            turn = hear(key, said.text)
            return None if turn is None else ask(turn)

        asks = [ask(turn) for turn in turns]
        self.policy.generate_on(asks, self.params, respond, version=version, precision=precision)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        seed: int,
        params: SamplingParams | None = None,
        version: str = BASE_VERSION,
    ) -> StreamingReply | ChosenReply:
        """One sampled reply as growing text; the version is fixed now, whatever is promoted later.

        A reply that is picked among several comes in one piece.

        Raises:
            DataError: the conversation cannot be used.
            Busy: too many replies are in work.
            PolicyError: the version is unknown.
        """
        params = params or self.params
        prompt = self.build_prompt(messages)
        if (chooser := self.choosers.get(version)) is not None:
            none = Generation(ids=(), logprobs=(), text="", finish_reason="cancelled")
            return ChosenReply(
                DraftReply(
                    prompt=prompt, generation=none, params=params, seed=seed, version=version
                ),
                lambda: self._chosen([prompt], params, [seed], version, chooser)[0],
            )
        tokens = self.policy.stream(prompt.ids, params, seed, version=version)
        return StreamingReply(tokens, prompt, params, seed, version)

    def _chosen(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        seeds: Sequence[int],
        version: str,
        chooser: Chooser,
    ) -> list[DraftReply]:
        """Draw several replies to each prompt, all in one batch, and keep the picked ones."""
        count = chooser.candidates
        drawn = [s for seed in seeds for s in candidate_seeds(seed, count)]
        ids = [prompt.ids for prompt in prompts for _ in range(count)]
        found = self.policy.generate(ids, params, drawn, version=version)
        places = chooser(
            [
                Choice(
                    messages=p.messages, ids=p.ids, candidates=found[n * count : (n + 1) * count]
                )
                for n, p in enumerate(prompts)
            ]
        )
        rows = [n * count + place for n, place in enumerate(places)]
        return [
            DraftReply(
                prompt=p, generation=found[row], params=params, seed=drawn[row], version=version
            )
            for p, row in zip(prompts, rows, strict=True)
        ]

    def _check(self, messages: Sequence[Message]) -> None:
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("a reply needs a conversation that ends with a user message")
        if not any(message["role"] == "user" for message in messages):
            raise DataError("a reply needs a conversation with at least one user message")
        for message in messages:
            if message["role"] not in _ROLES:
                raise DataError(
                    f"a message's role must be one of {', '.join(_ROLES)}, got {message['role']!r}"
                )
        newest = max(i for i, message in enumerate(messages) if message["role"] == "user")
        for message in [*messages[:1], *messages[newest:]]:
            check_message(message["content"], message["role"])
