# ruff: noqa: SIM905 (word lists read better as running text)
"""Word lists for venues, streets and towns, split into training and held-out halves.

A word belongs to the held-out split when its checksum says so, so the split needs no second list
and cannot drift: `is_heldout(word)` is the whole rule. A training name contains no held-out word
and a held-out name only held-out words.
"""

import random
import zlib
from typing import Literal

Split = Literal["train", "heldout"]

ADJECTIVES = """golden silver copper crimson amber ivory scarlet violet emerald sapphire coral jade
hazel russet indigo misty sunny windy stormy frosty snowy rainy quiet gentle merry jolly happy lucky
lonely proud humble noble royal grand little tiny giant tall crooked narrow winding hidden secret
forgotten ancient olden rustic modern urban wild tame hungry thirsty sleepy dreamy dancing singing
laughing whistling humming roaming wandering running leaping flying soaring rising setting falling
drifting floating sailing rolling tumbling spinning turning burning glowing shining gleaming
sparkling twinkling blazing smoking roasted toasted salted spiced peppered sugared honeyed buttered
pickled minted velvet satin cotton woollen leather wooden oaken stony marble granite brick iron
brass bronze pewter tin crystal glass paper painted gilded polished woven knotted braided broken
mended second seventh third fourth ninth lost found northern eastern western southern coastal inland
upper lower inner outer first last early late morning evening midnight noonday autumn winter summer
spring speckled spotted striped dappled freckled curly shaggy woolly feathered bearded barefoot
nimble swift steady patient clever cunning witty brave bold daring gallant loyal honest simple plain
fancy dainty graceful elegant charming cosy snug warm mellow tender sweet bitter sour smoky salty
zesty tangy ripe fresh green blue red white black grey brown purple pink yellow orange turquoise
maroon""".split()

NOUNS = """fern oak elm birch cedar maple willow rowan alder aspen juniper laurel myrtle heather
thistle clover daisy poppy tulip lily iris rose orchid lotus primrose bluebell foxglove marigold
lavender rosemary thyme basil saffron ginger pepper nutmeg clove cumin fennel sorrel nettle bramble
bracken ivy moss reed heron swan robin wren sparrow finch lark raven crow magpie falcon hawk kestrel
osprey eagle owl pigeon dove pheasant partridge plover curlew puffin gull pelican stork crane fox
badger otter beaver hare rabbit stag hart fawn doe boar bear wolf lynx marten stoat weasel hedgehog
squirrel mole mouse ram lamb goat mare colt pony donkey mule bull ox heifer hound spaniel terrier
kitten tiger lion panther leopard elephant camel dolphin whale seal walrus trout salmon pike perch
carp herring mackerel lobster crab oyster mussel cockle anchor rudder mast galley harbour beacon
lantern lamp candle torch ember hearth chimney kettle teapot saucer ladle skillet oven griddle
platter goblet tankard barrel cask bottle flagon basket hamper cradle spindle loom thimble needle
ribbon button buckle bonnet slipper boot saddle stirrup bridle wheel wagon carriage chariot plough
sickle scythe anvil hammer chisel compass sextant globe atlas quill inkwell ledger parchment fiddle
flute trumpet drum harp cello bugle bell whistle comet planet moon star sun cloud rainbow thunder
breeze gale tempest tide wave ripple brook stream river lake pond marsh meadow orchard garden
vineyard grove thicket forest valley canyon ridge summit cliff boulder pebble cavern island lagoon
delta prairie oasis temple abbey cloister chapel tower turret castle palace manor cottage cabin barn
granary windmill bridge tunnel gate arch pillar fountain statue mirror window balcony terrace attic
cellar pantry""".split()

SURNAMES = """abbot adair alcott alden amory anders archer ashby atwood baines baldwin barlow barton
baxter beckett bellamy benson bishop blake bolton bowen bradley brandt brennan briggs bristow bryce
burke byrne calder callow calvert carver castell chandler chester clayton cobb colby conway cooper
corbett crane crosby dalton darby darrow dawson deane devlin dobson draper dunbar eastman egan
elliot emery fairfax fallon farrell fenton finley fisher fletcher forsyth foster franks frost fuller
gable gardner garrick gibson gilroy glover godwin goodall grady greer griffin hadley halden hanley
hardy harlow hartley hastings hawkins hobson holden holloway hooper hurst ingram jarvis jessop
judson keane keller kendal kirby lambert langley larkin latimer lawton leland lennox linden lockwood
lowell lyndon maddox marlow marsden mayhew mercer merrick milner mitford monroe morley nash neville
newell norris oakley ogden osborn paget palmer parrish paxton pemberton perkins pickett porter
prescott quincy radley ramsey redmond reeves renshaw ridley rigby roper rowley sadler sanders sawyer
selby shelton sheridan sinclair slater spencer stanton sterling stoker sutton talbot tanner tate
temple thorne tilden turner tyler underhill vance vaughn wade walden walker warner watts webster
weston whitby wilder winslow wyatt yardley york""".split()

STREET_WORDS = """mill church station bridge market chapel castle park garden orchard school college
river spring harbour quay wharf canal lock ferry abbey priory bishop king queen prince duke baker
butcher cooper weaver fuller tanner smith potter glover saddler draper mercer chandler brewer malt
barley wheat corn hop cherry apple plum pear walnut chestnut hawthorn holly beech ash poplar lime
hill dale vale moor heath common green cross stone sand clay chalk flint slate silver tin lead
copper bell drum north south lion swan hart crown anchor rope sail mast lantern candle wool silk
lace ribbon barn field meadow pond brook well fountain tower gate wall long short broad narrow high
low upper lower old new cobble gravel sunset sunrise union liberty victory jubilee regent albert
charlotte george henry edward william mary anne margaret caroline louise arthur""".split()

STREET_TYPES = "street lane road avenue row close square place way court walk yard".split()

TOWN_STARTS = """nor sud west east ash oak elm thorn black white brad stan haver hamp kings queens
bish lang harl marl wool stock leather rother water brom cald dun fair glen hart hol ken lin mel mid
new old pem ray red ros sel shel silver stoke strat sun thorpe tun wal wen win wood yar cran bex cor
dar""".split()
TOWN_ENDS = """wood ton ford bury ham ley worth mouth field bridge port dale combe
stead hurst wick gate more well cester by minster stow sea""".split()

SYLLABLES_A = """ba be bi bo bra bre ca ce chi co cra da de di do dra fa fe fi flo fo fra ga ge gi
go gra ha he hi ho ja jo ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no pa pe pi po pra qua
ra re ri ro ru sa se si so sta su ta te ti to tra tu va ve vi vo wa we wi ya ye yo za ze
zo""".split()
SYLLABLES_B = """bel dan dor fin gar lan lar len lin lor man mar mel min mir mon nar
nel nor ran rel ren rin ros san sel sol tan tel ten tor val van vel ven ver vin zan zel la le li lo
na ne ni no ra re ri ro ta te ti to va ve vi vo""".split()
SYLLABLES_C = """a o i e ano ella ello ero essa etta ia ina ino io ista ora ore osa oso ua um us on
en an is as os el il ez ik ek""".split()

RESTAURANT_NOUNS = (
    "kitchen table bistro grill diner tavern brasserie canteen cafe house room".split()
)
HOTEL_NOUNS = "hotel house inn lodge rooms guesthouse".split()
TAXI_NOUNS = "cabs taxis cars".split()


def is_heldout(word: str) -> bool:
    """Tell whether a name word is reserved for the held-out split (about one in six)."""
    return zlib.crc32(word.lower().encode()) % 6 == 0


def _pick(rng: random.Random, words: list[str], split: Split) -> str:
    while True:
        word = rng.choice(words)
        if is_heldout(word) == (split == "heldout"):
            return word.capitalize()


def _spliced(rng: random.Random, split: Split) -> str:
    """Join the beginning of one word to the end of another, as in 'Hersea' or 'Wilcon'."""
    first, second = (_pick(rng, rng.choice((NOUNS, SURNAMES)), split) for _ in range(2))
    return first[: rng.randint(2, 4)].lower() + second[-rng.randint(2, 4) :].lower()


def coined(rng: random.Random, split: Split) -> str:
    """Coin a word; this makes copying piece by piece necessary in training too."""
    while True:
        if rng.random() < 0.5:
            word = _spliced(rng, split)
        else:
            word = rng.choice(SYLLABLES_A) + rng.choice(SYLLABLES_B) + rng.choice(SYLLABLES_C)
        if is_heldout(word) == (split == "heldout"):
            return word.capitalize()


def town(rng: random.Random, split: Split) -> str:
    """Make a town name such as Harlbury."""
    while True:
        word = rng.choice(TOWN_STARTS) + rng.choice(TOWN_ENDS)
        if is_heldout(word) == (split == "heldout"):
            return word.capitalize()


def street(rng: random.Random, split: Split) -> str:
    """Make an address such as '12 Mill Lane'."""
    kind = rng.choice(STREET_TYPES).capitalize()
    return f"{rng.randint(1, 99)} {_pick(rng, STREET_WORDS, split)} {kind}"


def restaurant_name(rng: random.Random, split: Split) -> str:
    """Make a restaurant name from one of several patterns."""
    adjective, noun = _pick(rng, ADJECTIVES, split), _pick(rng, NOUNS, split)
    kind = rng.choice(RESTAURANT_NOUNS).capitalize()
    patterns = [
        f"{adjective} {noun}",
        f"{adjective} {noun}",
        f"The {adjective} {noun}",
        f"{coined(rng, split)} {kind}",
        f"{_pick(rng, SURNAMES, split)} {kind}",
        f"{noun} and {_pick(rng, NOUNS, split)}",
        f"Casa {coined(rng, split)}",
        f"{coined(rng, split)}",
        f"{noun} {kind}",
    ]
    return rng.choice(patterns)


def hotel_name(rng: random.Random, split: Split) -> str:
    """Make a hotel name from one of several patterns."""
    kind = rng.choice(HOTEL_NOUNS).capitalize()
    patterns = [
        f"{_pick(rng, NOUNS, split)} {kind}",
        f"{_pick(rng, SURNAMES, split)} {kind}",
        f"{coined(rng, split)} {kind}",
        f"{_pick(rng, ADJECTIVES, split)} {_pick(rng, NOUNS, split)} {kind}",
        f"Hotel {coined(rng, split)}",
    ]
    return rng.choice(patterns)


def taxi_name(rng: random.Random, split: Split) -> str:
    """Make the name of a taxi firm."""
    kind = rng.choice(TAXI_NOUNS).capitalize()
    first = rng.choice([_pick(rng, SURNAMES, split), _pick(rng, NOUNS, split), coined(rng, split)])
    return f"{first} {kind}"
