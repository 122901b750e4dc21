"""Pointers say where the words of a reply stand in its prompt, and the heads are taught by them."""

import pytest
import torch

from data.concierge.generate import SEED, distinct
from data.concierge.pointers import gathers, mentions, wishes
from data.concierge.pointing import Pointing, where
from data.concierge.tokens import Encoded, encode_all, train_tokenizer
from data.concierge.training import (
    ModelSettings,
    TrainSettings,
    collate,
    losses,
    new_model,
    token_losses,
)

SYSTEM = """You are the city concierge of Kingsford. Answer from the list below.
- restaurant, cheap, north, italian: Golden Fern, 12 Mill Lane, phone 4417
- hotel, cheap, north, wifi: Fern House, 7 Station Road, phone 3052, 44 a night
- train to Norwood: departs 09:15, arrives 10:40, price 44
- taxi: Parker Cabs, phone 5226"""


def talk(*texts: str) -> list[dict[str, str]]:
    """Return a dialogue over the catalogue in which user and assistant take turns."""
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    return [{"role": "system", "content": SYSTEM}, *turns]


def said(*texts: str) -> list[tuple[str, int]]:
    """Return what the last of alternating turns repeats, with the message that it stands in."""
    messages = talk(*texts)
    return [
        (messages[number]["content"][start:end], *sorted({fact.message for fact in facts}))
        for number, (start, end, facts) in mentions(messages)
        if number == len(texts)
    ]


def sources(*texts: str) -> dict[str, list[str]]:
    """Return, for what the last turn repeats, the lines of the catalogue that it may come from."""
    messages = talk(*texts)
    return {
        messages[number]["content"][start:end]: [
            SYSTEM[: fact.start].rsplit("\n", 1)[-1].split(",")[0] for fact in facts
        ]
        for number, (start, end, facts) in mentions(messages)
        if number == len(texts)
    }


def test_names_addresses_numbers_and_the_town_are_found_where_they_stand() -> None:
    reply = "In Kingsford there is Golden Fern at 12 Mill Lane, a cheap italian place, phone 4417."
    assert [text for text, _ in said("cheap food", reply)] == [
        "Kingsford",
        "Golden Fern",
        "12 Mill Lane",
        "4417",
        "cheap",
        "italian",
    ]


def test_a_number_that_stands_twice_belongs_to_the_line_that_the_talk_is_about() -> None:
    asked = ("a hotel", "Fern House would suit you.", "what does it cost?", "It is 44 a night.")
    assert sources(*asked) == {"44": ["- hotel"]}
    train = ("a train", "One leaves at 09:15.", "what does it cost?", "It costs 44.")
    assert sources(*train) == {"44": ["- train to Norwood: departs 09:15"]}


def test_attributes_point_only_to_the_line_that_is_offered_and_inventions_point_nowhere() -> None:
    assert sources("an expensive place", "Nothing expensive. Golden Fern is cheap.") == {
        "Golden Fern": ["- restaurant"],
        "cheap": ["- restaurant"],
    }
    assert said("a bar", "Try Silver Dove, 3 Hill Road, phone 9999.") == []


def test_what_the_user_said_of_a_booking_is_found_in_the_users_words() -> None:
    reply = "Booked Golden Fern for 4 on friday at 19:30."
    assert said("book it for 4 on friday at 19:30", reply) == [
        ("Golden Fern", 0),
        ("4", 1),
        ("friday", 1),
        ("19:30", 1),
    ]


def by_character(messages: list[dict[str, str]]) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Return offsets of a tokenizer of single characters, and where each message begins."""
    offsets = [[(n, n + 1) for n in range(len(m["content"]))] for m in messages]
    begins = [1000 * number for number in range(len(messages))]
    return offsets, begins


def test_a_name_gathers_its_attributes_and_every_other_fact_its_name() -> None:
    offsets, _ = by_character([{"content": SYSTEM}])
    known = {
        SYSTEM[at:].split(",")[0].split("\n")[0]: "".join(SYSTEM[source] for source in found)
        for at, found in gathers(SYSTEM, offsets[0], 0)
    }
    assert known["Golden Fern"] == "restaurantcheapnorthitalian"
    assert known["12 Mill Lane"] == known["4417"] == "restaurantGolden Fern"
    assert known["44 a night"] == "hotelFern House"
    assert known["Norwood: departs 09:15"] == "train"
    assert known["09:15"] == "trainNorwood"
    assert known["5226"] == "taxiParker Cabs"


def test_a_first_mention_looks_at_the_words_that_asked_for_it() -> None:
    reply = "Golden Fern. Golden Fern has 4417."
    messages = talk("Something Italian?", "Where?", "a restaurant in the north", reply)
    offsets, begins = by_character(messages)
    ((query, found),) = wishes(messages, mentions(messages), offsets, begins)
    assert query == begins[4] - 1
    words = "".join(messages[at // 1000]["content"][at % 1000] for at in found)
    assert words == "restaurantnorthItalian"


@pytest.fixture(scope="module")
def encoded() -> list[Encoded]:
    """Return encoded dialogues of the corpus."""
    dialogues = [record["messages"] for record in distinct(SEED, "train", 80)]
    texts = [message["content"] for messages in dialogues for message in messages]
    return encode_all(train_tokenizer(texts, 1024), dialogues)


def test_pointers_lead_from_before_a_token_of_the_assistant_to_earlier_like_tokens(
    encoded: list[Encoded],
) -> None:
    like = 0
    for example in encoded:
        for query, found in example.pointers:
            assert example.written[query + 1]
            assert max(found) <= query
            like += example.ids[query + 1] in {example.ids[at] for at in found}
    number = sum(len(example.pointers) for example in encoded)
    assert number > 10 * len(encoded)
    # A name at the start of a sentence has no space before it and is cut differently.
    assert like / number > 0.9


def test_the_loss_is_that_of_the_attention_of_the_taught_heads(encoded: list[Encoded]) -> None:
    model = new_model(ModelSettings(vocab_size=1024), eos=4, pad=0, seed=1)
    model.set_attn_implementation("eager")
    batch = encoded[:3]
    ids, _ = collate(batch, 0)
    queries, targets = where([example.pointers for example in batch], ids.shape[1])
    with torch.no_grad(), Pointing(model) as heads:
        out = model(input_ids=ids, output_attentions=True)
        loss = heads.loss(queries, targets)
    logs = [
        out.attentions[layer][row, head, query, list(found)].sum().log()
        for layer in (4, 5)
        for row, example in enumerate(batch)
        for head in (0, 2)
        for query, found in example.pointers
    ]
    torch.testing.assert_close(loss, -torch.stack(logs).mean(), rtol=1e-4, atol=1e-4)


def test_a_head_that_writes_what_it_reads_has_a_small_copying_loss(encoded: list[Encoded]) -> None:
    model = new_model(ModelSettings(vocab_size=1024, num_hidden_layers=2), eos=4, pad=0, seed=1)
    batch = encoded[:3]
    ids, _ = collate(batch, 0)
    _, targets = where([example.pointers for example in batch], ids.shape[1])

    def loss() -> float:
        with torch.no_grad(), Pointing(model) as heads:
            model(input_ids=ids)
            return heads.copy_loss(ids, targets).item()

    wired = loss()
    torch.nn.init.normal_(model.model.layers[1].self_attn.o_proj.weight, std=0.02)
    assert wired < 4.0 < loss()


def test_gathering_is_learned_when_the_attention_is_equal_on_all_that_belongs_together(
    encoded: list[Encoded],
) -> None:
    model = new_model(ModelSettings(vocab_size=1024), eos=4, pad=0, seed=1)
    model.set_attn_implementation("eager")
    batch = encoded[:2]
    ids, _ = collate(batch, 0)
    tasks = [
        where([example.gathers for example in batch], ids.shape[1]),
        where([example.wishes for example in batch], ids.shape[1]),
    ]
    with torch.no_grad(), Pointing(model) as heads:
        out = model(input_ids=ids, output_attentions=True)
        loss = heads.gather_loss(tasks)
    total = torch.zeros(())
    for layer, some in ((2, [e.gathers for e in batch]), (3, [e.wishes for e in batch])):
        found = []
        for row, pointers in enumerate(some):
            for head in (0, 2):
                for query, sources in pointers:
                    logs = out.attentions[layer][row, head, query, list(sources)].log()
                    found.append(-logs.mean() - torch.tensor(len(sources)).log())
        total = total + torch.stack(found).mean() if found else total
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-4)


def test_a_batch_without_pointers_costs_nothing() -> None:
    model = new_model(ModelSettings(num_hidden_layers=2), eos=4, pad=0, seed=1)
    batch = [Encoded([5, 6, 7], [False, True, True])]
    _, parts = losses(model, batch, TrainSettings(tokens=5000))
    assert parts[0] > 0
    assert parts[1:] == [0.0, 0.0, 0.0]


def test_a_token_that_repeats_a_fact_weighs_more(encoded: list[Encoded]) -> None:
    model = new_model(ModelSettings(vocab_size=1024, num_hidden_layers=2), eos=4, pad=0, seed=1)
    batch = [example for example in encoded if example.pointers][:1]
    ids, written = collate(batch, 0)
    each = token_losses(model, ids, written, autocast=False)
    places = [at - 1 for at, wrote in enumerate(batch[0].written) if wrote]
    repeats = {query for query, _ in batch[0].pointers}
    weights = torch.tensor([5.0 if at in repeats else 1.0 for at in places])
    assert len(places) == len(each)
    settings = TrainSettings(tokens=5000, pointing=0.0, repeat_weight=5.0, autocast=False)
    total, _ = losses(model, batch, settings)
    torch.testing.assert_close(total, (each * weights).sum() / weights.sum())
