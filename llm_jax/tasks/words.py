"""The words that families draw: of a fixed list, or made up, so that a family needs nothing of a run."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TypeVar

from llm_jax.tasks.base import split_of

WORDS = tuple(
    """
    ant arm axe bag bat bay bed bee box boy bun bus cat cow cup dam day dog ear eel egg end eye fig fox hat hen hoe
    hut inn jam jar job jug key law lip log map mat mug net nut oar owl pan pea pen pie pig pot rat row saw ski toe
    toy
    arch army aunt ball barn beam bean bear bell belt boat bolt bone book boot bowl bush cage cake calf camp cane
    card cart cave chin club coat coin comb cone crab crow debt deer desk dice doll dome door drum duck duty edge
    face farm file fist flag foot fork frog game gate gift girl goal goat gull hall hand hare harp hawk head heel
    hill hive hook hour idea king kite knee lace lake lamb lamp lawn leaf lens lion list loaf lock loom mask mast
    mill mine moon moth mule nail name neck nest nose oven page palm park part path pear pill pipe plan plum poem
    pond pony port pump race raft rake ramp ring road rock roof root rope rule sack seal seed shed ship shoe shop
    side sign sock sofa song soup star stem stew swan tart task team tent tide tile toad town tram trap tray tree
    twin tyre vase vine wall wasp wave week well whip wire wolf word year
    acorn alarm ankle anvil apple apron atlas attic badge banjo beach beard bench berry brake brick broom brush
    cable camel canal canoe cello chain chair cheek child clamp cliff clock cloud coast comet court crate crowd
    crown diary dream dress drill eagle elbow fence field flame flask fleet flood floor flute glove goose grape
    group guard guest habit heart hedge heron hinge horse jewel judge knife ladle latch lemon level lever medal
    melon mixer model month motor mouse mouth night novel onion otter owner peach pearl pedal perch petal piano
    piece plane plank plate porch price prize puppy purse queen quilt radio raven razor rider river robin robot
    ruler salad scale scarf screw shape sheep shelf shell shirt sieve skate smell snail snake sound spade spark
    spoon stair stamp stick stone stool stork storm story stove swamp swing sword table taste thorn thumb tiger
    tooth torch towel tower train trout truck uncle union valve wagon watch whale wheel widow wrist
    almond anchor answer badger bakery barrel barrow basket battle beaver beetle border bottle branch breeze bridge
    bucket buckle button camera candle carpet carrot castle cellar cherry chisel church collar colour corner cousin
    cradle custom dancer debate desert design donkey drawer driver editor engine expert family farmer father finger
    flower forest fridge friend funnel garden grater guitar hammer helmet helper hunter icicle island jacket keeper
    kennel kettle kitten ladder leader legend lesson letter lizard magnet marble market meadow member memory meteor
    method minute mirror moment monkey mother muscle museum napkin needle noodle number office orange paddle palace
    parcel parent parrot pebble pencil pickle pigeon pillar pillow planet player plough pocket poster potato prince
    prison puddle pulley puppet puzzle quarry rabbit racket radish reason recipe record report ribbon rocket rudder
    rumour runner saddle sailor salmon sample saucer school season secret shadow shield shovel shower signal singer
    sister sketch sledge sleeve spider sponge spring square stable statue stream street summer switch teapot temple
    theory ticket tomato tongue treaty trophy trough tunnel turnip turtle valley violin voyage walnut window winner
    winter worker wrench zipper
    airport balcony bandage battery bedroom bicycle biscuit blanket brother builder cabbage captain cartoon carving
    ceiling century chimney climber company compass concert contest cottage council crystal curtain diamond dolphin
    evening eyebrow factory feather glacier harbour holiday journey kitchen lantern lecture library mansion measure
    meeting message mistake morning orchard pancake pattern picture pitcher present printer problem project promise
    pudding pumpkin rainbow sausage scholar shutter soldier sparrow spatula speaker stadium station stomach student
    sweater swimmer teacher theatre toaster tractor trumpet village visitor volcano wedding whistle
    accident beginner birthday calendar computer cupboard customer dumpling elephant envelope explorer festival
    fountain haystack hedgehog hospital inventor keyboard language listener merchant mountain mushroom necklace
    notebook painting portrait question reporter sandwich shepherd shoulder squirrel stranger suitcase tapestry
    trombone umbrella villager vineyard windmill workshop
    """.split()
)
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
UNWANTED = "nig fag cun dik kuk naz rap sex tit poo pis ass cum tard nud god".split()  # in a made-up word, rude or odd

Drawn = TypeVar("Drawn", bound=Hashable)


def by_length() -> dict[int, list[str]]:
    found = defaultdict(list)
    for word in WORDS:
        found[len(word)].append(word)
    return dict(found)


BY_LENGTH = by_length()


def made_up(rng: random.Random, letters: int) -> str:
    """A word that can be said and means nothing: vowels and consonants in turn."""
    while True:
        first = rng.random() < 0.25
        word = "".join(rng.choice(VOWELS if (place + first) % 2 else CONSONANTS) for place in range(letters))
        if not any(part in word for part in UNWANTED):
            return word


def word(rng: random.Random, letters: int) -> str:
    """Of the list as often as not, else made up."""
    return rng.choice(BY_LENGTH[letters]) if letters in BY_LENGTH and rng.random() < 0.5 else made_up(rng, letters)


def word_key(word: str) -> str:
    """Of what is asked about the letters of a word: one that is held out is so in all families."""
    return f"word:{word}"


def word_of(rng: random.Random, letters: int, split: str) -> str:
    """One that is held out, or not, as the split says."""
    while split_of(word_key(drawn := word(rng, letters))) != split:
        pass
    return drawn


def any_word(rng: random.Random) -> str:
    """For lists of words, whose letters nobody asks about."""
    return word(rng, rng.randint(4, 6))


def name(rng: random.Random) -> str:
    """Of a person or a place: made up, so that only the prompt tells anything about it."""
    return made_up(rng, rng.randint(4, 6)).capitalize()


def distinct(rng: random.Random, count: int, draw: Callable[[random.Random], Drawn]) -> list[Drawn]:
    """So many different ones, in the order in which they came."""
    found: dict[Drawn, None] = {}
    while len(found) < count:
        found[draw(rng)] = None
    return list(found)


# Under the names that a run's own lists have: for families that draw from such, where there is no run.
_drawn = random.Random("lists")
LISTS = {
    **{kind: distinct(_drawn, 40, name) for kind in ("first", "last", "city")},
    "job": "baker teacher farmer nurse tailor gardener painter carpenter dentist plumber librarian pilot".split(),
    "hobby": "chess fishing knitting sailing cooking pottery dancing hiking singing archery rowing juggling".split(),
}
