"""The spoken language of the tiny model: content words in categories, sentence templates, and their split.
Words within a category sound different, no word belongs to two categories, and homophones are left out."""

import re
import zlib

import numpy as np

_LISTS = {
    "color": "black brown gray green orange pink purple silver white yellow",
    "animal": "camel cat cow dog dolphin elephant fox monkey rabbit spider tiger turtle",
    "object": "basket blanket bottle box candle hammer ladder mirror pencil table umbrella window",
    "place": "bridge castle forest garden hospital kitchen library market museum school station village",
    "number": "eleven fifty five hundred nine seven six ten three twelve",
    "person": "anna david emma henry julia laura maria oliver peter sophia thomas victor",
    "food": "apple banana butter cheese chocolate honey lemon mushroom noodles pizza sandwich tomato",
    "action": "brings carries drops follows hides kicks lifts moves opens paints pushes washes",
    "day": "friday monday saturday sunday thursday tuesday wednesday",
    "job": "butcher captain dancer doctor farmer lawyer nurse pilot soldier teacher",
    "quality": "ancient broken dirty empty famous heavy lovely soft tiny wooden",
    "vehicle": "bicycle boat bus helicopter rocket taxi tractor train truck wagon",
}
WORDS = {category: tuple(words.split()) for category, words in _LISTS.items()}

TEMPLATES = (
    "the {color} {animal} sleeps", "{person} {action} the {object}", "the {job} {action} the {object}",
    "the {animal} {action} the {object}", "{person} eats {food} on {day}", "the {animal} eats the {food}",
    "{person} likes {food}", "my {job} likes {food}", "the {vehicle} leaves at {number}",
    "the {vehicle} stops near the {place}", "{person} waits in the {place}", "the {animal} runs from the {place}",
    "this {object} is {quality}", "this {object} is {color}", "my {vehicle} is {color}", "on {day} the {job} rests",
    "the {job} cooks {food}", "{number} people visit the {place}", "the {quality} {vehicle} stops here",
    "{person} and the {animal} play", "give {person} the {object}", "take the {food} home",
    "the {place} closes on {day}", "{person} is a {job}", "the {job} drives a {vehicle}",
    "{person} found the {color} {object}", "the {quality} {animal} sleeps here", "on {day} we visit the {place}",
    "room {number} is {quality}", "{person} left at {number}", "the {job} has {number} coins",
    "we found {number} coins on {day}", "the {animal} hates {food}", "the {place} is {quality}",
    "{person} {action} my {vehicle}",
)  # fmt: skip


def split_of(sentence: str) -> str:
    """The split that a sentence belongs to, by a stable hash: 80 % train, 10 % validation, 10 % test."""
    return {8: "validation", 9: "test"}.get(zlib.crc32(sentence.encode()) % 10, "train")


def draw_sentence(split: str, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """A random sentence of this split and its content words by category."""
    while True:
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        filling = {name: WORDS[name][int(rng.integers(len(WORDS[name])))] for name in re.findall(r"{(\w+)}", template)}
        sentence = template.format(**filling)
        if split_of(sentence) == split:
            return sentence, filling


def spoken_words() -> tuple[str, ...]:
    """All words that a sentence can contain, sorted."""
    fixed = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    return tuple(sorted(fixed.union(*WORDS.values())))
