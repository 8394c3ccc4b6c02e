"""Plain text that has nothing to do with any bundled task: what a model knew and may forget.

Written for ftlab and copied from nowhere: facts that anyone knows, dialogue, instructions, and
things with numbers in them. A model's loss on it before and after a fine-tune says how much of its
general language the fine-tune has cost.
"""

from __future__ import annotations

import hashlib

_FACTS = (
    "Water boils at a lower temperature on a mountain than at the sea, because less air presses "
    "down on it. Climbers who want their rice to be soft have to let it cook for longer.",
    "The moon has no light of its own. What we see at night is sunlight that its grey dust throws "
    "back, and the dark part is only the side that the sun does not reach.",
    "Bees tell one another where the flowers are with a dance. The angle of the dance gives the "
    "direction, and the longer the bee waggles, the farther away the flowers stand.",
    "A glacier is a river of ice. It moves so slowly that nobody can see it move, yet over "
    "thousands of years it grinds whole valleys out of the rock beneath it.",
    "Paper came to Europe late. For centuries people there wrote on the skins of sheep and calves, "
    "and a single large book could cost the hides of a whole herd.",
    "Iron rusts where air and water meet it. Paint keeps both away, and so does oil, which is why "
    "a tool that is wiped after work lasts longer than one that is put away wet.",
    "Most deserts are not covered with sand. They are stony plains where rain is rare, hot by day "
    "and cold by night, since no cloud holds the warmth of the ground.",
    "The heart of a small bird beats several hundred times a minute, that of an elephant about "
    "thirty times. Over a life both come to numbers that are not so far apart.",
    "Salt was once so precious that roads were named after it. Before there were refrigerators it "
    "was the only way to keep fish and meat through the winter.",
    "Sound travels faster in water than in air, and faster still in steel. Put an ear to a long "
    "rail and you hear the hammer twice: first through the metal, then through the air.",
)

_DIALOGUE = (
    '"Have you seen my keys?" asked Lena. "They were on the table a minute ago." Her brother '
    'did not look up from his newspaper. "Then look under the table," he said.',
    '"You are early," said the baker. "The bread is still in the oven." "That is no trouble," '
    'the old man answered. "It is warm in here, and I have nowhere else to be."',
    '"Can I help you?" "I hope so. I bought this kettle here last week, and it leaks." "Do you '
    'still have the receipt?" "I do. It is a little wet, I am afraid."',
    '"Which way to the station?" "Go straight on until you come to the bridge, then turn left. '
    'You cannot miss it." "That is what the last man told me, and I did."',
    '"I have never liked the sea," she said. "Then why do you live beside it?" "Because my '
    'sister does, and I like her more than I dislike the sea."',
    '"Good evening, this is Martin from the library. The book that you ordered has arrived." '
    '"Thank you! Until when will you keep it for me?" "Until Saturday at noon."',
    '"It is going to rain," said Tom. "You say that every morning." "And one morning I shall '
    'be right, and you will be the one without an umbrella."',
    '"Did the concert go well?" "The first half did. In the second a string broke, and I had to '
    'play on three. Nobody noticed except my teacher."',
    '"We could paint the kitchen yellow," he suggested. She thought about it. "Yellow in the '
    'morning is cheerful, but yellow at midnight is a lot to ask of anyone."',
    '"How long have you worked here?" "Nineteen years in spring." "And has it changed?" "The '
    'machines have. The coffee, I am sorry to say, has not."',
)

_INSTRUCTIONS = (
    "To repot a plant, water it first and wait an hour. Tip the pot, hold the stem between two "
    "fingers, and tap the rim until the roots slide out. Never pull at the leaves.",
    "Before you drill into a wall, find out what runs behind it. Pipes and cables usually go "
    "straight up or sideways from a tap or a socket, so stay clear of those lines.",
    "Bring a pot of water to the boil, add salt, and put in the pasta. Stir once so that nothing "
    "sticks. Taste a piece a minute before the packet says that it is ready.",
    "If the screen stays dark, check first whether the cable sits firmly at both ends. Then hold "
    "the power button for ten seconds, let it go, and press it once more.",
    "When you write a letter of thanks, name what you were given and say what you do with it. Two "
    "honest sentences are worth more than a page of fine words.",
    "To fold a paper boat, start with a sheet that is longer than it is wide. Fold it in half, "
    "bring the upper corners to the middle, and turn up the strips that are left.",
    "Let the dough rest under a cloth until it has doubled in size. In a warm kitchen this takes "
    "about an hour; in a cold one, make it in the evening and bake in the morning.",
    "Change a bicycle tube like this: let out the air, lift one side of the tyre over the rim, "
    "draw out the old tube, and feel along the inside for whatever made the hole.",
    "Learn the names of people you meet by using them. Say the name once when you hear it, once in "
    "the conversation, and once when you say goodbye.",
    "Keep a torch, a blanket and a bottle of water in the car in winter. If you are stuck in snow, "
    "stay inside, open a window a little, and run the engine only now and then.",
)

_NUMBERS = (
    "A train leaves at 9:15 and arrives at 11:40. The journey takes two hours and twenty-five "
    "minutes, so whoever wants to be there by noon has twenty minutes to spare.",
    "Three friends share a bill of 84 euros. Each of them pays 28. If they leave a tip of ten per "
    "cent, it comes to 92 euros and 40 cents, or 30.80 each.",
    "The tower is 62 metres high and has 310 steps. Each step is therefore 20 centimetres, which "
    "is a little more than most people find comfortable.",
    "There are 7 days in a week and 24 hours in a day, which makes 168 hours. If we sleep for 56 "
    "of them, a third of our life is spent with our eyes closed.",
    "One, two, three, four, five, six, seven, eight, nine, ten. Counting backwards is harder: ten, "
    "nine, eight, seven, six, five, four, three, two, one.",
    "In January the village had 1,204 inhabitants. During the year 15 children were born, 11 "
    "people died and 8 moved away, so that 1,200 were left at the end.",
    "A recipe for four needs 300 grams of flour, 2 eggs and half a litre of milk. For six people "
    "take 450 grams, 3 eggs and three quarters of a litre.",
    "The shop opens at eight on weekdays, at nine on Saturdays, and not at all on Sundays. In "
    "August it closes at five; in every other month it closes at half past six.",
    "A square with sides of 5 metres has an area of 25 square metres. Double the sides and the "
    "area becomes four times as large: 100 square metres.",
    "The thermometer showed 4 degrees at dawn, 11 at noon and 7 in the evening. That is a mean of "
    "a little over 7, quite usual for the last week of October.",
)

PASSAGES: tuple[str, ...] = (*_FACTS, *_DIALOGUE, *_INSTRUCTIONS, *_NUMBERS)


def fingerprint() -> str:
    """SHA-256 over the passages in order: losses on them compare only where it is the same."""
    return hashlib.sha256("\x00".join(PASSAGES).encode()).hexdigest()
