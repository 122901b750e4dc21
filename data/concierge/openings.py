"""How a wish is first uttered: plainly, vaguely, booking first, two at once."""

from dataclasses import replace

from data.concierge import phrases_follow as follow
from data.concierge import phrases_user as user
from data.concierge import users
from data.concierge.phrases_chat import CHAT
from data.concierge.talk import Talk, Wish


def open_request(talk: Talk, wish: Wish) -> None:
    """Ask for something: plainly, vaguely, with a booking first or two wishes at once."""
    rng, kind = talk.rng, wish.kind
    manner = rng.random()
    if kind in ("restaurant", "hotel") and manner < 0.2:
        vague_request(talk, wish)
    elif kind in ("restaurant", "hotel") and manner < 0.28:
        booking_first(talk, wish)
    elif manner < 0.34:
        double_request(talk, wish)
    elif manner < 0.42 and kind in ("restaurant", "hotel"):
        request_with_detail(talk, wish)
    else:
        text = users.request(rng, talk.split, kind, wish.slots)
        talk.add(talk.greeting() + text, talk.answer(wish))


def vague_request(talk: Talk, wish: Wish) -> None:
    """Ask without saying what exactly; the assistant asks back or just offers one."""
    rng, kind = talk.rng, wish.kind
    text = talk.greeting() + users.request(rng, talk.split, kind, {})
    if rng.random() < 0.3:
        talk.add(text, talk.answer(Wish(kind=kind, slots={})))
        return
    talk.add(text, talk.ask(kind))
    if rng.random() < 0.15:
        talk.add(talk.user(follow.DONT_CARE), talk.answer(Wish(kind=kind, slots={})))
        return
    said = users.slot_phrase(rng, kind, wish.slots)
    talk.add(talk.user(follow.GIVE_SLOT, slot=said), talk.answer(wish))


def booking_first(talk: Talk, wish: Wish) -> None:
    """Book a table or a room before any place was named."""
    details, table = users.booking(talk.rng), wish.kind == "restaurant"
    templates = follow.BOOK_TABLE_FULL if table else follow.BOOK_ROOM_FULL
    text = talk.greeting() + talk.user(templates, **details)
    talk.add(text, talk.ask(wish.kind))
    said = users.slot_phrase(talk.rng, wish.kind, wish.slots)
    talk.add(talk.user(follow.GIVE_SLOT, slot=said), talk.answer(wish))
    if talk.venue and talk.rng.random() < 0.7:
        reply = talk.assistant.booked("table" if table else "room", talk.venue, details)
        talk.add(talk.user(CHAT["yes"]), reply)
        talk.booked = True


def double_request(talk: Talk, wish: Wish) -> None:
    """Ask for two things in one message; the reply takes them in order."""
    kind = talk.rng.choice([k for k in ("restaurant", "hotel", "train", "taxi") if k != wish.kind])
    second = Wish(kind=kind, slots=users.draw_slots(talk.rng, talk.catalogue, kind))
    phrases = [users.object_phrase(talk.rng, w.kind, w.slots) for w in (wish, second)]
    both = talk.user(user.AND_ALSO, one=phrases[0], two=phrases[1])
    text = talk.user(user.REQUEST, np=both, bare=both)
    replies = [talk.answer(second), talk.answer(wish)]
    reply = replace(
        replies[1],
        text=f"{replies[1].text} {replies[0].text}",
        grounded=replies[0].grounded and replies[1].grounded,
        act="two_wishes",
    )
    talk.add(talk.greeting() + text, reply)


def request_with_detail(talk: Talk, wish: Wish) -> None:
    """Ask for a venue and its phone number or address in one message."""
    what = talk.rng.choice(("phone", "address", "both"))
    words = talk.rng.choice(follow.DETAILS[what])
    ask = users.request(talk.rng, talk.split, wish.kind, wish.slots)
    text = f"{ask} {talk.user(follow.WITH_DETAIL, detail=words)}"
    reply = talk.answer(wish)
    if talk.venue and reply.grounded and reply.venue == talk.venue.name:
        more = talk.assistant.detail(what, talk.venue)
        reply = replace(reply, text=f"{reply.text} {more.text}", grounded=more.grounded)
    talk.add(talk.greeting() + text, reply)
