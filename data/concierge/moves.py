"""What a user does after an answer: asks, corrects, books, says yes."""

from data.concierge import phrases_follow as follow
from data.concierge import phrases_good as good
from data.concierge import users
from data.concierge.catalogue import Venue
from data.concierge.phrases_chat import CHAT
from data.concierge.talk import ASIDES, Talk, Wish


def follow_up(talk: Talk) -> None:
    """React to the last offer."""
    rng, wish = talk.rng, talk.wish
    if wish is None or talk.venue is None:
        talk.chat(ASIDES)
        return
    last = talk.replies[-1]
    failed = last.act == "offer" and (not last.grounded or last.venue != talk.venue.name)
    if failed and wish.kind in ("restaurant", "hotel") and rng.random() < 0.5:
        object_to(talk, wish)
        return
    if not last.grounded:
        correct(talk, wish)
        return
    if rng.random() < 0.15:
        ask_named(talk)
        return
    steps = {"detail": 34, "other": 10, "correct": 12, "book": 22, "describe": 8, "yes": 14}
    if wish.kind in ("train", "taxi"):
        steps = {"detail": 40, "book": 25, "yes": 10, "chat": 10}
    if talk.booked:
        steps["book"] = 0
    step = rng.choices(list(steps), weights=list(steps.values()))[0]
    if step == "yes" and not say_yes(talk, talk.venue, last.text):
        step = "detail"
    actions = {
        "detail": lambda: ask_detail(talk, wish),
        "other": lambda: ask_other(talk, wish),
        "correct": lambda: correct(talk, wish),
        "book": lambda: book(talk),
        "describe": lambda: describe(talk),
        "chat": lambda: talk.chat(ASIDES),
        "yes": lambda: None,
    }
    actions[step]()


def object_to(talk: Talk, wish: Wish) -> None:
    """Complain about a wrong offer; a good assistant says sorry and offers a right one."""
    said = users.slot_phrase(talk.rng, wish.kind, wish.slots)
    text = talk.user(CHAT["complain"])
    if said and talk.rng.random() < 0.7:
        text = talk.user(follow.CORRECT_PLAIN, slot=said)
    sorry = talk.rng.choice(("I am sorry.", "My apologies.", "Sorry about that.", "Sorry."))
    talk.add(text, talk.answer(wish, sorry))


def correct(talk: Talk, wish: Wish) -> None:
    """Change one slot of the wish."""
    if wish.kind not in ("restaurant", "hotel"):
        talk.chat(ASIDES)
        return
    fresh = users.draw_slots(talk.rng, talk.catalogue, wish.kind)
    key = talk.rng.choice(list(fresh))
    slot = {key: fresh[key]}
    new = Wish(kind=wish.kind, slots={**wish.slots, **slot})
    said = users.slot_phrase(talk.rng, wish.kind, slot)
    old_value = wish.slots.get(key)
    if old_value in (None, fresh[key]):
        text = talk.user(follow.CORRECT_PLAIN, slot=said)
    else:
        old = users.slot_phrase(talk.rng, wish.kind, {key: str(old_value)})
        text = talk.user(follow.CORRECT, slot=said, old=old)
    talk.add(text, talk.answer(new))


def ask_other(talk: Talk, wish: Wish) -> None:
    """Ask for another venue that fits."""
    text = talk.user(follow.OTHER)
    others = [v for v in talk.catalogue.match(wish.kind, wish.slots) if v not in talk.shown]
    if not others:
        reply = talk.assistant.plain(
            "no_more", good.NO_MORE, curt="no_more", forget=wish.kind, courtesy=False
        )
        talk.add(text, reply)
        return
    talk.venue = others[0]
    talk.shown.append(talk.venue)
    talk.add(text, talk.assistant.offer(talk.venue, wish.slots, others))


def ask_detail(talk: Talk, wish: Wish) -> None:
    """Ask for a fact about the venue that was offered."""
    venue = talk.venue
    assert venue is not None
    if wish.kind == "taxi":
        words = talk.rng.choice(follow.DETAILS["phone"])
        text = talk.user(follow.ASK_DETAIL, detail=words)
        talk.add(text, talk.assistant.detail("phone", venue))
        return
    if wish.kind == "train":
        when = talk.rng.random() < 0.5
        text = talk.user(follow.ASK_WHEN if when else follow.ASK_COST)
        talk.add(text, talk.assistant.detail("train_when" if when else "train_cost", venue))
        return
    what = talk.rng.choice(("phone", "phone", "address", "address", "cost", "both"))
    text = talk.user(follow.ASK_DETAIL, detail=talk.rng.choice(follow.DETAILS[what]))
    plain = {"phone": follow.ASK_CALL, "address": follow.ASK_WHERE, "cost": follow.ASK_COST}
    if what in plain and talk.rng.random() < 0.35:
        text = talk.user(plain[what])
    if what == "cost" and wish.kind == "restaurant":
        what = "price_level"
    talk.add(text, talk.assistant.detail(what, venue))


def ask_named(talk: Talk) -> None:
    """Ask about, or book, a place that the user names."""
    pool = [v for v in talk.catalogue.venues if v.kind in ("restaurant", "hotel")]
    if not pool:
        talk.chat(ASIDES)
        return
    venue = talk.rng.choice(pool)
    talk.venue, talk.wish = venue, Wish(kind=venue.kind, slots={})
    talk.shown = [venue]
    draw = talk.rng.random()
    if draw < 0.5:
        what = talk.rng.choice(("phone", "address", "both"))
        words = talk.rng.choice(follow.DETAILS[what])
        text = talk.user(follow.ASK_NAMED, detail=words, name=venue.name)
        talk.add(text, talk.assistant.detail(what, venue))
    elif draw < 0.75:
        text = talk.user(follow.TELL_NAMED, name=venue.name)
        talk.add(text, talk.assistant.detail(f"describe_{venue.kind}", venue))
    else:
        ask_booking(talk, talk.user(follow.BOOK_NAMED, name=venue.name), venue)


def describe(talk: Talk) -> None:
    """Ask what the place is like or where it is."""
    venue = talk.venue
    assert venue is not None
    draw = talk.rng.random()
    if draw < 0.35:
        text = talk.user(follow.ASK_AREA, area=venue.area)
        talk.add(text, talk.assistant.detail("area", venue))
    elif draw < 0.75:
        reply = talk.assistant.detail(f"describe_{venue.kind}", venue)
        talk.add(talk.user(follow.ASK_KIND), reply)
    else:
        talk.add(talk.user(follow.ASK_UNKNOWN), talk.assistant.detail("unknown", venue))


def say_yes(talk: Talk, venue: Venue, last: str) -> bool:
    """Say yes to the question that the assistant asked, if it asked one."""
    question = last.rsplit(".", 1)[-1].lower()
    if "?" not in question:
        return False
    text = talk.user(CHAT["yes"])
    if "address" in question:
        talk.add(text, talk.assistant.detail("address", venue))
    elif "phone number" in question:
        talk.add(text, talk.assistant.detail("phone", venue))
    elif any(w in question for w in ("book", "reserv", "ticket", "suit", "sound", "mind", "hold")):
        ask_booking(talk, text, venue)
    else:
        return False
    return True


def ask_booking(talk: Talk, text: str, venue: Venue) -> None:
    """Ask for the details of a booking, which the user then gives."""
    if venue.kind == "train":
        talk.add(text, talk.assistant.booked("train", venue, users.booking(talk.rng)))
        return
    if venue.kind == "taxi":
        talk.add(text, talk.assistant.detail("phone", venue))
        return
    talk.booked = True
    table = venue.kind == "restaurant"
    core = good.ASK_TABLE if table else good.ASK_ROOM
    talk.add(
        text,
        talk.assistant.plain("ask_booking", core, curt="ask_booking", forget="booking"),
    )
    details = users.booking(talk.rng)
    given = talk.user(follow.GIVE_TABLE if table else follow.GIVE_ROOM, **details)
    talk.add(given, talk.assistant.booked("table" if table else "room", venue, details))


def book(talk: Talk) -> None:
    """Book what was offered, with all details or without."""
    venue, details = talk.venue, users.booking(talk.rng)
    assert venue is not None
    if venue.kind in ("train", "taxi"):
        ask_booking(talk, talk.user(follow.BOOK_TRAIN, **details), venue)
        return
    talk.booked = True
    table = venue.kind == "restaurant"
    if talk.rng.random() < 0.5:
        text = talk.user(follow.BOOK_TABLE_PART if table else follow.BOOK_ROOM_PART, **details)
        ask_booking(talk, text, venue)
        return
    text = talk.user(follow.BOOK_TABLE_FULL if table else follow.BOOK_ROOM_FULL, **details)
    talk.add(text, talk.assistant.booked("table" if table else "room", venue, details))
