"""Short stories from a grammar: a hero, a plot of a few beats, a friend, an ending.

Every sentence is a choice among variants whose slots are filled from one cast, so that names,
pronouns, places and things stay the same through a story. """

import random

import words
from words import article, lean

OPENINGS = [
    "Once upon a time, there was {a_trait_hero} named {N} who lived {place}.",
    "Once there was {a_trait_hero} called {N}. {They} lived {place}.",
    "Long ago, {a_trait_hero} named {N} lived {place}.",
    "{N} was {a_trait_hero} who lived {place}.",
    "There once was {a_trait_hero} whose name was {N}. {Their} home was {place}.",
]

HABITS = [
    "Every morning, {N} ate {food} and looked out of the window.",
    "{They} liked {food} more than anything else.",
    "{N} loved to {skill}, and {their} friends loved to watch.",
    "On {weather} days, {they} went for a long walk.",
    "Everyone knew {N}, because {they} always said hello.",
    "In the evening, {they} liked to look at the stars.",
]

MEETINGS = [
    "On the way, {they} met {a_friend} named {F}.",
    "Then {a_friend} called {F} came along.",
    "Just then, {F} the {friend} passed by.",
]

ASKS = [
    '"What is wrong?" asked {F}.',
    '"Can I help you?" asked {F}.',
    '"Why do you look so sad?" asked {F}.',
    '"Hello, {N}," said {F}. "What are you doing?"',
]

ENDINGS = [
    "From that day on, {N} and {F} were best friends.",
    "{N} went home with a smile and slept well that night.",
    "That night, {N} fell asleep and dreamed of the next day.",
    "And {N} and {F} lived happily ever after.",
    "{N} never forgot that day.",
    "They laughed together until the sun went down.",
]

# A plot is a list of beats; a beat is a list of variants; None marks where the friend comes in.
PLOTS = {
    "lost": [
        [
            "One {weather} day, {N} lost {their} {obj}.",
            "One day, {they} could not find {their} {obj}.",
            "One {weather} morning, the {obj} was gone.",
        ],
        [
            "{They} looked everywhere, but it was not there.",
            "{N} looked in every corner of the house.",
            "{They} searched all day long.",
        ],
        None,
        ['"I have lost my {obj}," said {N}.', '"My {obj} is gone," {they} said.'],
        [
            '"Let us look together," said {F}.',
            '"Two can see more than one," said {F}. "I will help you."',
        ],
        [
            "They looked and looked, and at last they found the {obj} {hiding}.",
            "After a while, {F} found it {hiding}.",
            "Suddenly {N} saw the {obj} {hiding}.",
        ],
        [
            '"Thank you, {F}!" said {N}. {They} was very happy.',
            "{N} was so happy that {they} danced.",
        ],
    ],
    "found": [
        [
            "One {weather} day, {N} found {a_obj} {hiding}.",
            "One morning, {they} saw {a_obj} {hiding}.",
        ],
        ["{They} wondered whose it was.", '"Who has lost this?" {they} asked.'],
        [
            "{They} asked everyone {they} met, but nobody knew.",
            "{They} carried it from door to door.",
        ],
        None,
        [
            '"That is my {obj}!" said {F}. "I have looked for it all week."',
            '"Oh, my {obj}!" cried {F}. "Where did you find it?"',
        ],
        ["{N} gave it back at once.", '"Here you are," said {N} and gave it back.'],
        [
            "To say thank you, {F} shared some {food}.",
            "{F} was so glad that they had {food} together.",
        ],
    ],
    "storm": [
        [
            "One night, a great storm came.",
            "One day, dark clouds covered the sky and a storm began.",
        ],
        [
            "The wind blew and the rain fell, and {N} was afraid.",
            "The thunder was loud, and {they} hid {hiding}.",
        ],
        None,
        ['"I am afraid of the storm," said {N}.', '"The storm is so loud," said {N}.'],
        [
            '"Come to my house," said {F}. "It is warm and dry there."',
            '"Do not worry," said {F}. "We can wait together."',
        ],
        ["They ate {food} and told each other stories.", "They sat by the fire and ate {food}."],
        [
            "In the morning, the sun was shining again.",
            "When the storm was over, they saw a rainbow.",
        ],
    ],
    "learn": [
        ["{N} wanted to learn to {skill}.", "More than anything, {they} wanted to {skill}."],
        [
            "{They} tried and tried, but it did not work.",
            "The first time {they} tried, {they} fell over.",
        ],
        ['"I will never learn it," {they} said.', "{They} was ready to give up."],
        None,
        [
            '"You only need to practise," said {F}. "Try again."',
            '"Let me show you," said {F}. "Go slowly."',
        ],
        ["So {N} practised every day.", "They practised together for many days."],
        ["At last, {they} could {skill} very well.", "One day, it worked! {N} could {skill}."],
    ],
    "help": [
        [
            "One {weather} day, {N} was walking home.",
            "One day, {they} went out to get some {food}.",
        ],
        ["{They} heard someone crying {hiding}.", "There {they} saw someone sitting {hiding}."],
        ["It was {a_friend} named {F}.", "It was {F} the {friend}."],
        [
            '"I cannot find my way home," said {F}.',
            '"I have hurt my foot," said {F}. "I cannot walk."',
        ],
        ['"Do not cry," said {N}. "I will take you home."', '"I will help you," said {N}.'],
        ["Together they walked slowly until they saw the house.", "{N} led {F} all the way home."],
        ["{F} was very thankful and gave {N} {a_obj}.", '"You are a true friend," said {F}.'],
    ],
    "treasure": [
        [
            "One day, {N} found an old map {hiding}.",
            "One {weather} morning, {they} found a map in a bottle.",
        ],
        ["The map showed the way to a treasure.", "On the map there was a big red cross."],
        None,
        [
            '"Come with me," said {N}. "We will find the treasure."',
            '"Let us look for it together," said {N}.',
        ],
        [
            "They walked over hills and through a dark wood.",
            "They crossed a river and climbed a hill.",
        ],
        [
            "{hiding_cap}, they found a box. In the box there was {a_obj}.",
            "They dug a deep hole and found {a_obj}.",
        ],
        [
            '"The {obj} is nice," said {N}, "but the way was even better."',
            "They took turns to carry the {obj} home.",
        ],
    ],
    "share": [
        [
            "One day, {N} had a basket full of {food}.",
            "One {weather} day, {they} made a lot of {food}.",
        ],
        ['"This is all for me," {they} said.', "{They} wanted to eat it all alone."],
        None,
        [
            '"I am so hungry," said {F}.',
            '"That smells good," said {F}. "I have not eaten all day."',
        ],
        ["{N} thought for a moment.", "First {N} wanted to say no."],
        ['"Sit down," {they} said. "There is enough for two."', "Then {they} gave {F} half of it."],
        [
            "They ate together, and the {food} tasted better than ever.",
            "It was the best meal of the year.",
        ],
    ],
    "dark": [
        ["{N} was afraid of the dark.", "There was one thing that {N} did not like: the dark."],
        ["Every night, {they} lay awake.", "When the sun went down, {they} hid under the blanket."],
        None,
        [
            '"The dark is not bad," said {F}. "Come outside with me."',
            '"Let me show you something," said {F}.',
        ],
        [
            "They went out and looked up. The sky was full of stars.",
            "Outside, the moon was round and bright.",
        ],
        ['"How beautiful!" said {N}.', '"I did not know that the night is so pretty," said {N}.'],
        [
            "After that, {they} was not afraid any more.",
            "Now {they} looks at the stars every night.",
        ],
    ],
    "race": [
        ["One day, there was a great race {place}.", "Every summer, there was a race."],
        ["{N} wanted to win it.", "{N} was not very fast, but {they} wanted to try."],
        None,
        ['"I am faster than you," said {F}.', '"You cannot win," said {F} and laughed.'],
        [
            "The race began, and {F} ran far ahead.",
            "{F} ran so fast that soon nobody could see {fthem}.",
        ],
        ["But then {F} fell and hurt {ftheir} foot.", "But {F} stopped to sleep under a tree."],
        [
            "{N} came back to help, and they reached the end together.",
            "{N} went on step by step and won the race.",
        ],
    ],
    "garden": [
        [
            "In spring, {N} planted a small seed.",
            "One {weather} day, {they} put a seed into the ground.",
        ],
        ["{They} gave it water every day.", "Every morning, {they} looked, but nothing happened."],
        None,
        ['"Nothing will grow there," said {F}.', '"What are you waiting for?" asked {F}.'],
        ['"You have to be patient," said {N}.', '"It needs time," said {N}.'],
        [
            "In summer, a tall sunflower stood there.",
            "After many weeks, there was a little apple tree.",
        ],
        ["{F} could hardly believe it.", "Everyone came to see it, and {N} was proud."],
    ],
    "home": [
        [
            "One day, {N} walked too far and lost the way.",
            "One {weather} day, {N} could not find the way home.",
        ],
        [
            "Everything looked strange, and it was getting dark.",
            "{They} sat down {hiding} and began to cry.",
        ],
        None,
        ['"I want to go home," said {N}.', '"I do not know where I am," said {N}.'],
        [
            '"I know the way," said {F}. "Follow me."',
            '"Look at that star," said {F}. "It will lead us."',
        ],
        [
            "They walked through the night, hand in hand.",
            "Step by step they went on, and {F} sang a song.",
        ],
        [
            "At last, {they} saw the light of {their} own window.",
            "In the morning, {N} was home again.",
        ],
    ],
    "birthday": [
        [
            "It was the birthday of {N}, but nobody said a word.",
            "On {their} birthday, {N} woke up early.",
        ],
        ['"They have forgotten me," {they} thought.', "The house was empty and quiet."],
        None,
        [
            '"Come with me," said {F}. "I want to show you something."',
            '"Close your eyes," said {F}.',
        ],
        ["They went to a place {hiding}.", "{F} opened the door slowly."],
        [
            "There stood all {their} friends with {food}.",
            '"Happy birthday!" cried all {their} friends.',
        ],
        ["{N} got {a_obj} and was very happy.", "It was the best birthday of all."],
    ],
}

REQUESTS = [
    "Tell me a story{about}.",
    "Tell me a short story{about}.",
    "Please tell me a story{about}.",
    "Write a short story{about}.",
    "Can you tell me a story{about}?",
    "Write a story{about}.",
    "I would like to hear a story{about}.",
    "Tell me a bedtime story{about}.",
    "tell me a story{about}",
    "Could you write a short story{about}?",
    "A story{about}, please.",
    "Make up a story{about}.",
    "Please write me a little story{about}.",
    "write a story{about}",
    "story{about}",
    "Tell a story{about}.",
    "Do you know a story{about}?",
    "Give me a short story{about}.",
]


class Cast:
    """Who and what a story is about: the slots of its sentences."""

    def __init__(self, rng: random.Random):
        self.hero, self.friend = rng.sample(words.HEROES, 2)
        if rng.random() < 0.06:
            self.hero = invented(rng)
        self.rng, hero = rng, self.hero
        self.trait = lean(rng, words.TRAITS, "trait " + hero)
        she, friend_she = lean(rng, (True, False), "she " + hero), rng.random() < 0.5
        if self.hero in ("girl", "queen", "princess", "mermaid", "witch", "fairy", "cow", "hen"):
            she = True
        if self.hero in ("boy", "king", "prince", "fisherman", "snowman"):
            she = False
        if self.friend in ("girl", "queen", "princess", "mermaid", "witch", "fairy", "cow", "hen"):
            friend_she = True
        if self.friend in ("boy", "king", "prince", "fisherman", "snowman"):
            friend_she = False
        name = lean(rng, words.SHE_NAMES if she else words.HE_NAMES, "name " + hero)
        if rng.random() < 0.05:
            name = invented(rng).capitalize()
        friend_name = name
        while friend_name == name:
            friend_name = lean(
                rng, words.SHE_NAMES if friend_she else words.HE_NAMES, name + self.friend
            )
        self.name, self.friend_name = name, friend_name
        self.place, self.obj = lean(rng, words.PLACES, "place " + hero), lean(
            rng, words.OBJECTS, "thing " + name
        )
        self.food, self.skill = lean(rng, words.FOODS, "food " + hero), lean(
            rng, words.SKILLS, "skill " + hero
        )
        hiding = lean(rng, words.HIDING_PLACES, "hiding " + self.obj)
        self.slots = {
            "N": name,
            "F": friend_name,
            "hero": self.hero,
            "friend": self.friend,
            "a_trait_hero": article(f"{self.trait} {self.hero}"),
            "a_friend": article(self.friend),
            "place": self.place,
            "obj": self.obj,
            "a_obj": article(self.obj),
            "food": self.food,
            "skill": self.skill,
            "hiding": hiding,
            "hiding_cap": hiding[0].upper() + hiding[1:],
            "weather": lean(rng, words.WEATHER, "weather " + hero),
            "they": "she" if she else "he",
            "They": "She" if she else "He",
            "their": "her" if she else "his",
            "Their": "Her" if she else "His",
            "fthem": "her" if friend_she else "him",
            "ftheir": "her" if friend_she else "his",
        }


def invented(rng: random.Random) -> str:
    """A word that nobody knows: the model learns to tell stories about whatever is named."""
    return "".join(
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))
    )


def choose_plot(rng: random.Random, cast: Cast) -> str:
    return lean(rng, list(PLOTS), "plot " + cast.hero)


def story(rng: random.Random, cast: Cast, plot: str | None = None) -> str:
    """One story of about 80 to 200 tokens about the cast, in one or two paragraphs."""
    plot = plot or choose_plot(rng, cast)
    hero, name = cast.hero, cast.name
    lines = [lean(rng, OPENINGS, "opening " + hero)]
    if lean(rng, (True, False), "habit " + name):
        lines.append(lean(rng, HABITS, "habits " + hero))
    break_at = len(lines) if lean(rng, (True, False), "break " + name) else None
    for i, beat in enumerate(PLOTS[plot]):
        if beat is None:
            lines.append(lean(rng, MEETINGS, "meeting " + name))
            if plot in ("lost", "home") and lean(rng, (True, False), "ask " + hero):
                lines.append(lean(rng, ASKS, "asks " + name))
        else:
            lines.append(lean(rng, beat, f"{plot} {i} {hero}"))
    lines.append(lean(rng, ENDINGS, "ending " + name))
    if lean(rng, (True, False, False), "moral " + name):
        lines.append(lean(rng, words.MORALS, plot))
    filled = [line.format(**cast.slots) for line in lines]
    if break_at is None:
        return " ".join(filled)
    return " ".join(filled[:break_at]) + "\n\n" + " ".join(filled[break_at:])


# What a request may say of each plot, after "a fox".
PLOT_CLAUSES = {
    "lost": ["who lost {their} {obj}", "and {a_obj}", "who lost something"],
    "found": ["who found {a_obj}", "and {a_obj}"],
    "storm": ["and a storm", "in a storm"],
    "learn": ["who wants to {skill}", "who learns to {skill}"],
    "help": ["who helps a friend", "who helps {a_friend}"],
    "treasure": ["and a treasure", "who finds a treasure"],
    "share": ["who learns to share", "and {food}"],
    "dark": ["who is afraid of the dark", "who was afraid of the dark"],
    "race": ["and a race", "who wants to win a race"],
    "garden": ["and a seed", "who plants a seed"],
    "home": ["who is lost", "who cannot find the way home"],
    "birthday": ["who has a birthday", "and a birthday"],
}


def request(rng: random.Random, cast: Cast, plot: str) -> str:
    """A user's request that the story of the cast answers."""
    roll = rng.random()
    trait = "a_trait_hero" if rng.random() < 0.2 else None
    hero = cast.slots[trait] if trait else article(cast.hero)
    if roll < 0.12:
        about = ""
    elif roll < 0.45:
        about = f" about {hero}"
    elif roll < 0.6:
        about = f" about {hero} and {article(cast.friend)}"
    elif roll < 0.7:
        about = f" about {hero} {rng.choice(['named', 'called'])} {cast.name}"
    elif roll < 0.76:
        about = f" about {hero} {rng.choice(['who lives ', ''])}{cast.place}"
    elif roll < 0.84:
        about = " about " + rng.choice(
            ["{N}", "{N} the {hero}", "{N} and {F}", "{N} and {F} the {friend}"]
            + {
                "lost": ["{N} and {their} lost {obj}", "{N} who lost {their} {obj}"],
                "found": ["{N} and the {obj}"],
                "birthday": ["the birthday of {N}"],
                "garden": ["the garden of {N}"],
            }.get(plot, [])
        ).format(**cast.slots)
    else:
        about = f" about {hero} " + rng.choice(PLOT_CLAUSES[plot]).format(**cast.slots)
    return rng.choice(REQUESTS).format(about=about)


FOLLOW_UPS = [
    (
        [
            "What was the {hero}'s name?",
            "What was the name of the {hero}?",
            "What is the {hero} called?",
        ],
        ["The {hero}'s name was {N}.", "The {hero} was called {N}."],
    ),
    (
        ["Who was the friend of {N}?", "Who helped {N}?", "Who is {F}?"],
        ["It was {F} the {friend}.", "{F} is {a_friend}."],
    ),
    (["Where did {N} live?", "Where does {N} live?"], ["{N} lived {place}."]),
    (["What was {F}?", "Tell me who {F} was.", "And who was {F}?"], ["{F} was {a_friend}."]),
    (["Who was {N}?", "What was {N}?"], ["{N} was {a_trait_hero}."]),
]


def follow_up(rng: random.Random, cast: Cast) -> tuple[str, str]:
    """A question about the story just told, and its answer."""
    questions, answers = rng.choice(FOLLOW_UPS)
    question = rng.choice(questions)
    if "{F}" in question and "name" not in question:
        answers = ["{F} was {a_friend}."]
    return question.format(**cast.slots), rng.choice(answers).format(**cast.slots)
