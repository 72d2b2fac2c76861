"""The words of the tiny web: everyday English by topic, inflections, and invented names."""

from __future__ import annotations

import random

PEOPLE = """neighbour teacher child friend visitor traveller farmer sailor merchant student guest stranger
    captain cousin uncle aunt brother sister grandmother grandfather owner leader worker player singer dancer
    guard judge king queen prince soldier scholar shepherd hunter keeper builder helper driver runner swimmer
    collector inventor explorer scientist reporter editor customer apprentice widow villager boy girl mother
    father parent twin rider climber speaker listener beginner expert member winner""".split()
ANIMALS = """cat dog horse cow sheep goat pig hen duck goose rabbit mouse rat fox wolf bear deer hare otter
    beaver badger hedgehog squirrel owl eagle hawk crow raven sparrow robin swan heron stork pigeon gull
    whale seal dolphin trout salmon eel crab snail spider ant bee wasp moth butterfly beetle frog toad lizard
    snake turtle donkey mule camel monkey elephant lion tiger parrot pony kitten puppy lamb calf""".split()
FOODS = """apple pear plum cherry peach lemon orange melon grape berry fig nut almond walnut onion carrot
    potato tomato cabbage bean pea turnip radish pumpkin mushroom cake pie biscuit pancake dumpling sausage
    egg loaf bun tart pudding noodle sandwich soup stew salad pickle jam""".split()
TOOLS = """hammer saw drill wrench chisel axe knife spade shovel rake hoe bucket ladder rope nail screw bolt
    hinge needle brush broom lamp lantern candle torch clock watch compass map wheel engine pump pipe valve
    lever pulley spring chain hook anchor net basket barrel crate box bottle jar kettle pot pan bowl cup
    plate fork spoon oven stove mirror pen pencil stamp envelope printer camera radio telescope lens magnet
    battery switch wire cable button zipper tray sieve funnel scale ruler clamp file plane anvil
    loom""".split()
HOUSE = """chair table bed shelf desk drawer cupboard sofa carpet curtain blanket pillow window door roof
    wall floor ceiling stair chimney fence gate cellar attic kitchen bedroom hall porch balcony bench stool
    cradle vase picture letter book notebook page story song poem coin ticket parcel present toy doll kite
    ball flag bell drum flute violin guitar trumpet piano hat coat shirt glove scarf boot shoe sock belt ring
    necklace dress jacket apron sweater umbrella bag purse suitcase tent boat ship raft canoe cart wagon
    bicycle train tram bus truck plough statue sign poster""".split()
PLACES = """village town market harbour bridge river lake island mountain valley forest meadow field hill
    cave beach coast cliff desert swamp garden orchard vineyard mill farm barn stable castle palace tower
    temple church school library museum theatre hospital station airport inn bakery workshop factory mine
    quarry street square park fountain well road path tunnel canal dam lighthouse port office shop cottage
    mansion prison court stadium pond stream waterfall glacier volcano bay border camp""".split()
NATURE = """tree leaf branch root seed flower stone rock pebble cloud storm star planet moon shadow flame
    feather shell bone crystal diamond pearl bush vine thorn log stick wave tide breeze shower rainbow
    snowflake icicle puddle flood spark comet meteor nest acorn cone petal stem hedge lawn""".split()
IDEAS = """idea plan question answer problem reason lesson rule law promise secret rumour dream memory habit
    journey voyage race game contest prize debt price gift task job duty report record list number letter
    word name language message signal discovery experiment theory mistake accident battle treaty festival
    wedding birthday concert lecture meeting debate holiday season century year month week day hour minute
    moment morning evening night winter summer colour shape sound smell taste pattern method recipe custom
    legend tradition project design model sample measure level row corner edge side end beginning part piece
    group crowd team family club union company council army fleet""".split()
BODY = """head face eye ear nose mouth lip tooth tongue chin cheek neck shoulder arm elbow wrist hand finger
    thumb knee ankle foot heel toe heart bone stomach muscle beard moustache eyebrow fist palm""".split()
GOODS = """jewel medal crown sword shield helmet saddle whip cane sack tent pocket sleeve collar ribbon
    buckle lace badge mask puppet marble puzzle chessboard card dice swing sledge ski skate bat racket goal
    trophy diary calendar map atlas novel cartoon painting portrait statue sketch carving tapestry quilt mat
    towel sponge comb razor bandage pill thermometer microscope computer keyboard telephone speaker robot
    rocket satellite tractor motor brake pedal tyre mast oar rudder paddle brick tile beam plank pillar arch
    dome staircase ramp shutter latch lock key alarm whistle trombone harp cello banjo tambourine xylophone
    teapot saucer jug mug flask pitcher napkin tablecloth corkscrew ladle spatula grater mixer toaster fridge
    hive kennel cage trap perch trough barrow haystack scarecrow windmill greenhouse shed hut
    tower""".split()
TRANSITIVE = """find carry hold keep build repair paint clean wash open close lift move pull push bring take
    give sell buy borrow lend hide show draw describe study measure weigh count watch hear see touch smell
    taste follow lead guide help teach praise blame thank visit leave enter cross reach pass meet join invite
    remember forget choose want need like love admire fear trust doubt protect guard defend attack catch
    chase throw drop break bend cut tear burn melt freeze boil cook bake fry stir mix pour fill empty cover
    wrap tie sew knit weave polish sharpen plant water harvest gather collect sort store load ship send
    receive deliver order copy print sign read write translate explain discuss plan design invent test
    examine inspect check fix improve change replace remove add save spend waste share divide win lose enjoy
    avoid miss notice ignore accept refuse offer support prepare finish start rename restore adjust arrange
    assemble balance bury cancel carve celebrate chop clear compare connect consider control create damage
    decorate demand deserve destroy develop discover display drain drag earn encourage expect film fold
    frighten gain grab grind hang heat hire identify imagine include inherit introduce judge kick knock
    launch label list lock maintain mark match mend mention operate organise own pack peel pick pile preserve
    press produce prove publish purchase raise recognise recommend record reduce report request rescue
    respect ride rinse ring rub scrape search select separate shape slice spread squeeze steal stretch strike
    suggest surprise swallow sweep tell trade train treat trim turn twist understand unlock unpack use value
    view warn wear weed welcome wipe""".split()
INTRANSITIVE = """walk run jump swim climb fall rise sleep wake rest wait stand sit sing dance laugh smile
    cry shout whisper speak listen work play travel arrive depart return wander hurry stop begin grow shrink
    shine glow fade float sink drift roll slide spin shake tremble breathe cough sneeze yawn dream wonder
    worry hope agree argue complain succeed fail vanish appear remain stay live""".split()
ADJECTIVES = """small large big tall short long wide narrow deep shallow high low thick thin heavy light old
    young new fresh stale warm cold hot cool dry wet clean dirty bright dark pale loud quiet soft hard smooth
    rough sharp blunt sweet sour bitter salty rich poor cheap dear strong weak fast slow quick calm wild tame
    kind rude brave shy proud humble clever wise foolish honest gentle stern happy sad angry merry lonely
    busy lazy idle tired sleepy hungry thirsty sick healthy strange odd plain fancy simple rare common famous
    secret hidden open empty full broken whole round square flat steep straight crooked curved hollow solid
    wooden golden silver iron red blue green yellow brown black white grey purple pink striped spotted dusty
    muddy sandy rocky grassy snowy rainy windy sunny cloudy foggy stormy ancient modern early late recent
    distant near foreign local royal public private useful useless careful careless cheerful grateful hopeful
    peaceful powerful wonderful beautiful ugly pretty handsome elegant graceful clumsy curious patient
    restless nervous serious funny silly gloomy lively friendly polite generous greedy loyal faithful fierce
    timid stubborn eager keen ready safe dangerous fragile sturdy tiny huge vast enormous giant slender plump
    bare crowded noisy silent sudden steady gradual perfect proper correct false true real certain possible
    likely final sole main""".split()
ADVERBS = """often always never sometimes rarely usually again soon later yesterday today together alone
    outside inside upstairs nearby everywhere early twice once already""".split()
PREPOSITIONS = "near behind beside above under beyond across from inside around past opposite".split()
FUNCTION_WORDS = """a an the this that these those of to in on at by for with and or but because when while
    although before after since until who which was were is are had has not every each some many few most it
    they he she his her their there then than as if so""".split()

JOBS = """baker carpenter plumber teacher doctor nurse lawyer painter tailor butcher farmer driver pilot
    dentist chemist surgeon blacksmith gardener librarian potter printer jeweller miner barber weaver
    beekeeper translator firefighter porter postman welder banker photographer sculptor geologist biologist
    journalist florist roofer fisherman""".split()
HOBBIES = """chess pottery archery gardening knitting fishing cycling juggling sailing swimming fencing
    origami astronomy photography baking carving rowing skating hiking climbing dancing drumming painting
    sketching embroidery calligraphy birdwatching badminton tennis football yoga poetry magic puppetry
    woodwork beekeeping stargazing canoeing bowling quilting""".split()
PRODUCTS = """lamps clocks boots paper soap bricks glass rope paint tools toys hats carpets tiles buttons
    bicycles pumps engines candles cheese tea bread honey pencils kettles sails barrels bells knives
    umbrellas gloves maps wagons lenses blankets ladders chairs windows batteries radios""".split()
COMPANY_KINDS = "Works Mills Foods Lines Press Motors Supply Trading".split()
UNIVERSITY_KINDS = "College University Institute Academy".split()

IRREGULAR_PLURALS = dict(
    pair.split(":")
    for pair in """child:children sheep:sheep goose:geese
    mouse:mice deer:deer trout:trout salmon:salmon wolf:wolves calf:calves leaf:leaves tooth:teeth foot:feet
    loaf:loaves knife:knives shelf:shelves potato:potatoes tomato:tomatoes
    volcano:volcanoes""".split()
)
IRREGULAR_PASTS = dict(
    pair.split(":")
    for pair in """find:found hold:held keep:kept build:built bring:brought
    take:took give:gave sell:sold buy:bought lend:lent hide:hid show:showed draw:drew hear:heard see:saw
    lead:led teach:taught leave:left meet:met forget:forgot choose:chose catch:caught throw:threw break:broke
    bend:bent cut:cut tear:tore freeze:froze tie:tied sew:sewed knit:knitted weave:wove send:sent read:read
    write:wrote spend:spent win:won lose:lost run:ran swim:swam fall:fell rise:rose sleep:slept wake:woke
    stand:stood sit:sat sing:sang speak:spoke begin:began grow:grew shrink:shrank shine:shone sink:sank
    slide:slid spin:spun shake:shook
    deal:dealt grind:ground hang:hung ride:rode ring:rang spread:spread steal:stole strike:struck sweep:swept
    tell:told understand:understood wear:wore""".split()
)
# Verbs of one stressed syllable (or stress at the end) that double their last letter.
DOUBLING = set(
    """stop drop plan stir wrap cut run win swim sit spin hop knit chat forget begin ship big thin
    wet hot sad red flat chop drag rub trim
    cancel control label travel grab""".split()
)
# Adjectives with no adverb in common use.
NO_ADVERB = set(
    """small large big tall long old young new low fast hard tame rich poor wooden golden silver
    iron red blue green yellow brown black white grey purple pink striped spotted dusty muddy sandy rocky
    grassy snowy rainy windy sunny cloudy foggy stormy ancient modern early late distant near foreign own
    tiny huge vast giant crowded friendly lively silly lonely ugly little hollow square crooked curved whole
    broken fancy wet lone shallow fragile sturdy slender plump bare odd rare tired hidden cottage likely
    stale pale sole straight true shy sick last""".split()
)
VOWELS = "aeiou"


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def third_person(verb: str) -> str:
    """The verb after he, she or it; English spells it as it spells plurals."""
    return verb + "es" if verb.endswith("o") else plural(verb)


def past(verb: str) -> str:
    """The simple past of a verb."""
    return IRREGULAR_PASTS.get(verb) or _with_ending(verb, "ed")


def ing(verb: str) -> str:
    """The -ing form of a verb."""
    if verb == "tie":
        return "tying"
    return verb + "ing" if verb.endswith(("y", "ee")) else _with_ending(verb, "ing")


def comparative(adjective: str) -> str:
    """The comparative: an ending for short adjectives, "more" for long ones."""
    return _with_ending(adjective, "er") if adjective in SHORT_ADJECTIVES else "more " + adjective


def adverb(adjective: str) -> str:
    """The -ly adverb of an adjective."""
    if adjective.endswith("le"):
        return adjective[:-1] + "y"
    if adjective.endswith("y") and adjective[-2] not in VOWELS:
        return adjective[:-1] + "ily"
    return adjective + ("y" if adjective.endswith("ll") else "ly")


def _with_ending(word: str, ending: str) -> str:
    if word.endswith("e"):
        return word[:-1] + ending
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "i" + ending
    return word + word[-1] + ending if word in DOUBLING else word + ending


def article(phrase: str) -> str:
    """The phrase with "a" or "an" in front."""
    vowel = phrase[0] in VOWELS and not phrase.startswith(("us", "uni"))
    an = vowel or phrase.startswith(("hour", "honest"))
    return f"{'an' if an else 'a'} {phrase}"


def everyday_words() -> list[str]:
    """Every distinct English word form the pages can draw, in a stable order."""
    words = FUNCTION_WORDS + ADVERBS + PREPOSITIONS + JOBS + HOBBIES + PRODUCTS + MANNER
    for noun in NOUNS + JOBS:
        words = words + [noun, plural(noun)]
    for verb in TRANSITIVE + INTRANSITIVE:
        words = words + [verb, third_person(verb), past(verb), ing(verb)]
    for adjective in ADJECTIVES:
        words = words + [adjective, comparative(adjective).split()[-1]]
    return list(dict.fromkeys(words))


def invent(rng: random.Random, count: int, endings: str, taken: list[str]) -> list[str]:
    """Invent `count` capitalised names and add them to `taken`.

    No name begins another one (nor equals an everyday word), so that searching a page for a name
    finds that name only.
    """
    names: list[str] = []
    while len(names) < count:
        middle = rng.choice(MIDDLES) + rng.choice(NAME_VOWELS) if rng.random() < 0.2 else ""
        name = rng.choice(ONSETS) + rng.choice(NAME_VOWELS) + middle + rng.choice(endings.split())
        clash = any(other.startswith(name) or name.startswith(other) for other in taken)
        if not clash and len(name) > 3 and name not in EVERYDAY and not any(bad in name for bad in UNWANTED):
            taken.append(name)
            names.append(name)
    return [name.capitalize() for name in names]


NOUNS = list(dict.fromkeys(PEOPLE + ANIMALS + FOODS + TOOLS + HOUSE + PLACES + NATURE + IDEAS + BODY + GOODS))
# Short adjectives that nobody compares with -er.
NO_ENDING = set(
    """real false final royal local sole main loyal eager open solid iron tired timid giant
    whole""".split()
)
SHORT_ADJECTIVES = {word for word in ADJECTIVES if len(word) <= 5 and word not in NO_ENDING}
# Adjectives whose adverbs say how something is done.
MANNER = [adverb(word) for word in ADJECTIVES if word not in NO_ADVERB]
ONSETS = "b br d dr f fl g gr h j k kl l m n p pl pr r s sk st t th tr v w y z".split()
NAME_VOWELS = "a e i o u".split()
MIDDLES = "b d f g k l m n p r s t v z ld nd rn lm".split()
# Syllables that would make a name look like a rude word to a web filter.
UNWANTED = "nig fag cun shi fuk fuc dik dic kuk naz rap sex tit poo pis ass cum tard".split()
EVERYDAY = set(everyday_words())

FIRST_NAME_ENDINGS = "na ra la mo ro lo ren len din ris lis mel vin bet dor nia ria ska vo ta"
FAMILY_NAME_ENDINGS = "mer ton vik sen dal bry kin rand gar lund nik ster vold mont rick bel tov zar holm"
CITY_ENDINGS = "ford burg port ham wick mouth stad dale gate stow minster bridge"
REGION_ENDINGS = "mark shire land vale moor ria"
RIVER_ENDINGS = "ne der lla ver sk ppe th"
COMPANY_ENDINGS = "ix ex tron co dyne mat via pax tek nova"
UNIVERSITY_ENDINGS = "mor field bourne wyn head thorpe stead"
PLANT_ENDINGS = "wort bloom leaf root berry reed"
