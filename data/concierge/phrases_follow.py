# ruff: noqa: E501, SIM905 (a phrase stays on one line)
"""What people type after a first answer: questions, corrections, bookings.

Lower case; `{detail}`, `{slot}`, `{name}` and the details of a booking are filled in.
"""

WITH_DETAIL = [
    "[and |]what is the {detail}?",
    "i also need the {detail}.",
    "with the {detail} please.",
    "and the {detail}?",
    "its {detail} would help too.",
    "please give me the {detail} too.",
    "{detail} as well please",
]
ASK_DETAIL = [
    "what is the {detail}?",
    "[can|could] i [have|get] the {detail}[?|, please?]",
    "the {detail}[?| please| please?]",
    "{detail}[?| please|]",
    "would you share its {detail}?",
    "[and |]the {detail}?",
    "i need the {detail}[.|]",
    "give me the {detail}[.|, please.]",
    "what's their {detail}?",
    "do you have the {detail}?",
    "might i learn their {detail}?",
    "tell me the {detail}[.| please.]",
    "great, what is the {detail}?",
    "[sounds|looks] good. [the {detail}?|what is the {detail}?]",
    "and what is the {detail}[?| please?]",
    "nice, and the {detail}?",
    "before i go, its {detail}?",
    "ok, {detail}?",
    "can you give me their {detail}?",
    "i would like the {detail}[.|, please.]",
    "could you tell me the {detail}[?| please?]",
]
ASK_NAMED = [
    "what is the {detail} of {name}?",
    "[the |]{detail} of {name}[?|, please.]",
    "[can|could] you give me the {detail} of {name}?",
    "{name}, {detail}?",
    "would {name} have some {detail} listed?",
    "i need the {detail} of {name}[.|]",
    "tell me the {detail} for {name}[.|]",
    "do you have the {detail} for {name}?",
    "{detail} {name}",
]
TELL_NAMED = [
    "tell me about {name}[.|]",
    "what is {name}[ like|]?",
    "what about {name}?",
    "[do you know|is] {name}[?| any good?]",
    "{name} sounds fine, say more.",
    "{name}?",
    "is {name} nice?",
    "what do you know about {name}[?|]",
]
BOOK_NAMED = [
    "book {name}[.|, please.]",
    "[can|could] you book {name}?",
    "i'd like to book {name}[.|]",
    "i want {name}[.|]",
    "hold us a place at {name}.",
    "reserve {name}[.|, please.]",
    "i'll take {name}[.|]",
    "{name} please",
]
ASK_WHERE = [
    "where is it[?|]",
    "how do i find it[?|]",
    "where exactly[?|]",
    "which street is it on?",
    "where would that be?",
    "where is that[?|]",
    "what street[?|]",
]
ASK_CALL = [
    "how can i call them[?|]",
    "can i call them[?|]",
    "how do i reach them[?|]",
    "their number[?|]",
    "on which line do they answer?",
    "number please",
    "what number do i call?",
]
ASK_COST = [
    "how much is it[?|]",
    "how much[?|]",
    "what does it cost[?|]",
    "price[?|]",
    "what will they charge me?",
    "what is the price[?|]",
    "is it expensive?",
    "how much does it cost[?|]",
]
ASK_WHEN = [
    "when does it leave[?|]",
    "what time does it leave[?|]",
    "departure time[?|]",
    "when does it arrive[?|]",
    "at what hour does it set off?",
    "when do i get there?",
    "what time does it get in?",
]
ASK_KIND = [
    "what kind of place is it[?|]",
    "what is it like[?|]",
    "tell me more[.|]",
    "tell me more about it[.|]",
    "describe it, would you?",
    "what do you know about it?",
    "more details please[.|]",
    "is it any good?",
]
ASK_AREA = [
    "what area is it in[?|]",
    "which part of town[?|]",
    "is it in the {area}?",
    "is it central?",
    "whereabouts in town is that?",
    "what part of town is that[?|]",
    "is it in the centre?",
]
ASK_UNKNOWN = [
    "when does it open[?|]",
    "is it open on [sunday|monday]?",
    "do they take cards?",
    "is it good for [kids|a date|groups]?",
    "would a wheelchair get in?",
    "do they have [live music|a terrace|a view]?",
    "who is the chef?",
    "how many stars does it have?",
    "is there a dress code?",
    "what is on the menu?",
    "do locals like it?",
    "can i bring my dog?",
]
OTHER = [
    "something else[?|]",
    "anything else[?|]",
    "[do you have|is there] another one?",
    "another one please[.|]",
    "would there be a different choice?",
    "no, something else[.|]",
    "i don't like that one[.|]",
    "any other options[?|]",
    "what else do you have[?|]",
    "not that one[.|]",
    "might you offer one more?",
    "next[.|!|]",
    "no thanks, another[.|]",
    "is there anything else?",
    "hmm, not for me. what else?",
]
CORRECT = [
    "no, i meant {slot}[.|]",
    "sorry, i meant {slot}[.|]",
    "[i said|i asked for] {slot}[.|!]",
    "no, {slot}[.|!|, please.]",
    "oops, {slot} is what i had in mind.",
    "actually {slot}[.| please.]",
    "not {old}, {slot}[.|!]",
    "wait, {slot}[.|, not {old}.]",
    "i want {slot}, not {old}[.|]",
    "{slot}, sorry[.|]",
    "let me rephrase that: {slot}.",
    "make it {slot}[.|, please.]",
    "actually, make that {slot}[.|]",
    "hm, better {slot}[.|]",
    "[could|can] it be {slot}[?| instead?]",
    "and [what about|how about] {slot}?",
    "on second thought, {slot} suits me more.",
    "[do you have|is there] one that is {slot}?",
    "change that to {slot}[.|]",
    "i changed my mind, {slot}[.| please.]",
]
CORRECT_PLAIN = [
    "i meant {slot}[.|]",
    "i want {slot}[.|]",
    "[please, |]{slot}[.|!]",
    "it should be {slot}[.|]",
    "{slot} is my only wish.",
    "i said {slot}[.|!]",
    "i asked for {slot}[.|]",
    "no, {slot}[.|!]",
    "[could|can] it be {slot}?",
    "something {slot}[.|, please.]",
    "kindly keep to {slot}.",
    "and [what about|how about] {slot}?",
    "[do you have|is there] one that is {slot}?",
]
SWITCH = [
    "actually, i need {np} first.",
    "forget that. {np}[, please.|.]",
    "never mind, i want {np}[.|]",
    "i changed my mind, [find me|i need|i want] {np}[.|]",
    "let's drop it and get {np}.",
    "now i need {np}[.|]",
    "i also need {np}[.|]",
    "and {np}[?|, please.]",
    "can you also find {np}?",
    "next, {np}[.| please.]",
    "another matter: {np}?",
    "[ok|great|good]. i also want {np}[.|]",
    "and [do you have|is there] {np}?",
]
GIVE_SLOT = [
    "{slot}[.|]",
    "{slot}[, please.| please]",
    "{slot} [would be nice|would be good|is fine][.|]",
    "[maybe|something] {slot}[.|]",
    "let it be {slot}.",
    "i'd like {slot}[.|]",
    "i prefer {slot}[.|]",
    "{slot} i think[.|]",
    "preferably {slot}[.|]",
]
DONT_CARE = [
    "i don't mind[.|]",
    "anything[.| is fine.]",
    "whatever[.| you like.]",
    "no preference[.|]",
    "it is all the same to me.",
    "you choose[.|]",
    "any[.|]",
    "i don't care[.|]",
    "surprise me[.|!]",
    "doesn't matter[.|]",
    "up to your taste.",
]

BOOK_TABLE_FULL = [
    "book a table for {people} {day} at {time}[.|, please.]",
    "[can|could] you book a table for {people} {day} at {time}?",
    "a table for {people} {day} at {time}[, please.|.]",
    "i want to book a table for {people} {day} at {time}[.|]",
    "reserve us seats for {people} {day}, {time}.",
    "please book it for {people} people {day} at {time}[.|]",
    "[i'd like|i would like] a table for {people} {day} at {time}[.|]",
    "reserve a table {day} at {time} for {people}[.| people.]",
    "table for {people} {day} {time}",
    "make a booking for {people} {day} at {time}[.|]",
    "put {people} of us down for {time} {day}.",
    "book it for {people}, {day} at {time}[.|, please.]",
]
BOOK_TABLE_PART = [
    "[can|could] you book a table[?| there?]",
    "book it[.|, please.| for me.]",
    "i'd like to book a table[.|]",
    "[can|could] i reserve[?|]",
    "would you hold seats for us?",
    "book a table[.|]",
    "reserve a table [there |]for {people}[.|]",
    "book a table for {people}[.|, please.]",
    "table for {people} please",
    "a table {day}[.|, please.]",
    "keep a spot for {people} there.",
    "can you make a reservation[?|]",
    "please book that one[.|]",
    "i want to book[.|]",
]
BOOK_ROOM_FULL = [
    "book a room for {people} {day} for {nights}[.|]",
    "[can|could] you book it for {nights}, {people} people, from {from_day}?",
    "a room for {people} from {from_day} for {nights}[, please.|.]",
    "reserve a room for {people}, {nights} from {from_day}[.|]",
    "put {people} of us up for {nights} from {from_day}.",
    "i want to book a room for {people} for {nights} from {from_day}[.|]",
    "book it for {people}, {nights} from {from_day}[.|]",
]
BOOK_ROOM_PART = [
    "book a room[.|, please.]",
    "[can|could] you book it[?|]",
    "i'd like to book a room[.|]",
    "reserve a room for {people}[.|]",
    "would you hold the room?",
    "book it[.|, please.]",
    "can i reserve a room[?|]",
    "book a room for {nights}[.|]",
]
BOOK_TRAIN = [
    "book it[.|, please.]",
    "[can|could] you book {people} tickets?",
    "{people} tickets please[.|]",
    "i'll take it[.|]",
    "reserve {people} seats on it.",
    "book me a ticket[.|]",
    "two tickets[.|, please.]",
    "can i buy a ticket[?|]",
]
GIVE_TABLE = [
    "{people} people, {day} at {time}[.|]",
    "for {people}, {day} at {time}[.|]",
    "{day} at {time}, {people} people[.|]",
    "{people} of us, {day}, {time}[.|]",
    "{time} {day}, party of {people}.",
    "we are {people}, {day} at {time}[.|]",
    "{day} {time} for {people}",
]
GIVE_ROOM = [
    "{people} people, {nights} from {from_day}[.|]",
    "{nights}, from {from_day}, for {people}[.|]",
    "from {from_day} for {nights}, {people} people[.|]",
    "for {people}, {nights}, starting {from_day}[.|]",
    "arriving {from_day}, {people} guests, {nights}.",
    "{people} of us, {nights} from {from_day}[.|]",
]
LIST_ALL = [
    "what {kinds} do you have[?|]",
    "list all {kinds}[.|]",
    "which {kinds} are there[?|]",
    "show me all the {kinds}[.|]",
    "read me every one of the {kinds}.",
    "all {kinds} please",
    "{kinds}?",
    "what are my options for {kinds}?",
]

DETAILS = {
    "phone": [
        "phone number",
        "phone number",
        "phone",
        "telephone number",
        "contact number",
        "number",
    ],
    "address": ["address", "address", "street address", "address", "exact address", "location"],
    "cost": ["price", "price", "cost", "price per night", "fare or rate", "rate"],
    "both": [
        "address and phone number",
        "phone and address",
        "address and the phone",
        "phone number and address",
        "street and number to call",
        "address and number",
    ],
}

DAYS = (
    "tomorrow tonight today monday tuesday wednesday thursday friday saturday sunday "
    "on~monday on~friday on~saturday on~sunday on~thursday next~friday this~evening"
).split()
TIMES = "7pm 8pm 6pm 7:30 19:00 20:00 18:30 noon 12:30 1pm 9pm 8:30 6:15 5pm 7 8 half~past~seven".split()
PEOPLE = "2 2 2 3 4 5 6 8 two three four six 7 10".split()
NIGHTS = "1~night 2~nights 3~nights two~nights three~nights a~week 4~nights 5~nights".split()
