"""Simple questions with their answers: closed sets of facts, small sums, lists, small talk, and
polite refusals.

Each maker takes a random.Random and returns (question, thought, answer); the thought is what the
model writes in thinking mode. """

import random
import string

import stories
import words
from words import NUMBER_WORDS, article, lean


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def capital(rng):
    country, city = rng.choice(list(words.CAPITALS.items()))
    if rng.random() < 0.2:
        return (f"{city} is the capital of which country?",
                f"The user gives me a city. {city} is in {country}.",
                f"{city} is the capital of {country}.")
    question = rng.choice([
        "What is the capital of {}?", "What's the capital of {}?",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.", "Do you know the capital of {}?", "what is the capital of {}",
        "Name the capital of {}.", "Can you tell me the capital of {}?",
    ]).format(country)
    return (question, f"The user asks about {country}. Its capital is {city}.",
            f"The capital of {country} is {city}.")


def colour(rng):
    thing, hue = rng.choice(words.COLOURS)
    spelling = rng.choice(["colour", "color"])
    question = rng.choice([
        f"What colour is {thing}?", f"What color is {thing}?",
        f"Which {spelling} does {thing} have?",
        f"Tell me the {spelling} of {thing}.", f"what {spelling} is {thing}",
        f"What {spelling} is {thing}?",
    ])
    verb = "is"
    return (question, f"I think of {thing}. The colour is {hue}.",
            f"{capitalised(thing)} {verb} {hue}.")


def animal(rng):
    name, (sound, young, home, food, legs) = rng.choice(list(words.ANIMALS.items()))
    a_name = article(name)
    roll = rng.randrange(6)
    if roll == 5:
        legs_text = f"{NUMBER_WORDS[legs]} legs" if legs else "no legs"
        return (rng.choice([f"What is {a_name}?", f"Tell me about the {name}.",
                            f"What do you know about the {name}?",
                            f"Describe {a_name}."]),
                f"I tell what I know about the {name}.",
                f"{capitalised(a_name)} is an animal with {legs_text}. "
                f"It lives in {home} and eats {food}.")
    if roll == 0:
        return (rng.choice([f"What sound does {a_name} make?", f"What does {a_name} say?",
                            f"What noise does {a_name} make?"]),
                f"The animal is {a_name}. Its sound: it {sound}.",
                f"{capitalised(a_name)} {sound}.")
    if roll == 1:
        return (rng.choice([f"What is a baby {name} called?", f"What do you call a young {name}?",
                            f"What is the young of {a_name} called?"]),
                f"The young of {a_name} is {article(young)}.",
                f"A young {name} is called {article(young)}.")
    if roll == 2:
        return (rng.choice([f"Where does {a_name} live?", f"Where does {a_name} sleep?",
                            f"What is the home of {a_name}?"]),
                f"The home of {a_name} is {home}.", f"{capitalised(a_name)} lives in {home}.")
    if roll == 3:
        return (rng.choice([f"What does {a_name} eat?", f"What food does {a_name} like?"]),
                f"The food of {a_name} is {food}.", f"{capitalised(a_name)} eats {food}.")
    count = NUMBER_WORDS[legs] if legs else "no"
    return (rng.choice([f"How many legs does {a_name} have?", f"How many legs has {a_name}?"]),
            f"I count the legs of {a_name}: {legs}.", f"{capitalised(a_name)} has {count} legs.")


def opposite(rng):
    a, b = rng.choice(words.OPPOSITES)
    if rng.random() < 0.5 and a != "heavy":
        a, b = b, a
    if a == "light":
        b = "dark"
    question = rng.choice([f"What is the opposite of {a}?", f"Tell me the opposite of {a}.",
                           f'What is the opposite of "{a}"?', f"what is the opposite of {a}"])
    return question, f"The word is {a}. Its opposite is {b}.", f"The opposite of {a} is {b}."


def use(rng):
    thing, purpose = rng.choice(words.USES)
    return (rng.choice([f"What is {thing} for?", f"What do you use {thing} for?",
                        f"What can you do with {thing}?",
                        f"Why do people need {thing}?"]).replace("is scissors", "are scissors"),
            f"{capitalised(thing)}: you use it {purpose}.", f"You use {thing} {purpose}.")


def order(rng):
    name, items = rng.choice([("day", words.DAYS), ("month", words.MONTHS),
                              ("season", words.SEASONS)])
    at = rng.randrange(len(items))
    after = rng.random() < 0.5
    other = items[(at + (1 if after else -1)) % len(items)]
    side = "after" if after else "before"
    question = rng.choice([f"What {name} comes {side} {items[at]}?",
                           f"Which {name} comes {side} {items[at]}?",
                           f"Which {name} is {side} {items[at]}?"])
    return (question, f"The {name} {side} {items[at]} is {other}.",
            f"{capitalised(other)} comes {side} {items[at]}.")


def whole_order(rng):
    name, items = rng.choice([("days of the week", words.DAYS),
                              ("months of the year", words.MONTHS),
                              ("seasons", words.SEASONS), ("planets", words.PLANETS)])
    question = rng.choice([f"What are the {name}?", f"Name the {name}.", f"List the {name}.",
                           f"Tell me the {name}.", f"Can you name the {name}?"])
    listed = ", ".join(items[:-1]) + " and " + items[-1]
    return (question, f"I need to list all {len(items)} {name} in order.",
            f"The {name} are {listed}.")


def sum_of(rng):
    sign = rng.choice("+-")
    top = rng.choice([10, 20])
    a, b = rng.randint(0, top), rng.randint(0, top)
    if sign == "-" and b > a:
        a, b = b, a
    total = a + b if sign == "+" else a - b
    word = "plus" if sign == "+" else "minus"
    question = rng.choice([f"What is {a} {sign} {b}?", f"What is {a} {word} {b}?",
                           f"How much is {a} {sign} {b}?",
                           f"{a} {sign} {b} = ?", f"What is {a}{sign}{b}?",
                           f"Calculate {a} {sign} {b}.",
                           f"What is {NUMBER_WORDS[a]} {word} {NUMBER_WORDS[b]}?"])
    return question, f"I calculate {a} {sign} {b} = {total}.", f"{a} {sign} {b} = {total}."


def product(rng):
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice([f"What is {a} times {b}?", f"What is {a} x {b}?",
                           f"How much is {a} times {b}?",
                           f"What is {NUMBER_WORDS[a]} times {NUMBER_WORDS[b]}?",
                           f"What is {a} * {b}?"])
    return question, f"I calculate {a} times {b} = {a * b}.", f"{a} times {b} is {a * b}."


def neighbour(rng):
    number = rng.randint(1, 98)
    after = rng.random() < 0.5
    side, other = ("after", number + 1) if after else ("before", number - 1)
    return (rng.choice([f"What number comes {side} {number}?",
                        f"Which number comes {side} {number}?"]),
            f"I count: the number {side} {number} is {other}.",
            f"The number {other} comes {side} {number}.")


def count(rng):
    start, end = 1, rng.choice([3, 5, 7, 8, 10, 12, 15, 20])
    numbers = [str(n) for n in range(start, end + 1)]
    if rng.random() < 0.3:
        return (rng.choice([f"Count down from {end}.", f"Count backwards from {end} to 1.",
                            f"Can you count down from {end}?"]),
                f"I start at {end} and go down.", ", ".join(reversed(numbers)) + ".")
    target = rng.choice([str(end), NUMBER_WORDS[end]])
    return (rng.choice([f"Count to {target}.", f"Count from 1 to {target}.",
                        f"Can you count to {target}?",
                        f"Please count to {target}."]),
            f"I start at 1 and stop at {end}.", ", ".join(numbers) + ".")


def listing(rng):
    kind, items = rng.choice(list(words.LISTS.items()))
    n = rng.randint(2, min(5, len(items)))
    chosen = rng.sample(items, n)
    number = rng.choice([str(n), NUMBER_WORDS[n]])
    question = rng.choice([f"Name {number} {kind}.", f"List {number} {kind}.",
                           f"Tell me {number} {kind}.",
                           f"Can you name {number} {kind}?", f"Give me a list of {number} {kind}.",
                           f"Please name {number} {kind}."])
    if "list" in question.lower() and rng.random() < 0.7:
        answer = "\n".join(f"{i}. {capitalised(item)}" for i, item in enumerate(chosen, 1))
    else:
        answer = capitalised(", ".join(chosen[:-1]) + " and " + chosen[-1] + ".")
    return question, f"The user wants {n} {kind}.", answer


def compare(rng):
    i, j = rng.sample(range(len(words.SIZES)), 2)
    a, b = words.SIZES[i], words.SIZES[j]
    bigger = rng.random() < 0.5
    large, small = (a, b) if i > j else (b, a)
    first, second = (large, small) if bigger else (small, large)
    word = "bigger" if bigger else "smaller"
    question = rng.choice([f"Which is {word}, {a} or {b}?", f"What is {word}, {a} or {b}?",
                           f"Which animal is {word}: {a} or {b}?"])
    if rng.random() < 0.3:
        asked = rng.choice([(a, b), (b, a)])
        yes = (asked[0] == first)
        return (f"Is {asked[0]} {word} than {asked[1]}?", f"I compare {a} and {b}.",
                f"{'Yes' if yes else 'No'}, {first} is {word} than {second}.")
    return question, f"I compare {a} and {b}.", f"{capitalised(first)} is {word} than {second}."


def spelling(rng):
    word = rng.choice(words.HEROES + words.FOODS[:0] + [o.split()[-1] for o in words.OBJECTS])
    if rng.random() < 0.3:
        return (rng.choice([f"What is the first letter of {word}?",
                            f"Which letter does {word} start with?"]),
                f"The word is {word}.", f"The first letter of {word} is {word[0].upper()}.")
    return (rng.choice([f"How do you spell {word}?", f"Spell the word {word}.",
                        f"Can you spell {word}?"]),
            f"I spell {word} letter by letter.", "-".join(word.upper()) + ".")


def fact(rng):
    question, answer = rng.choice(words.FACTS)
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:].rstrip("?")
    return question, f"This is a simple question. {answer}", answer


GREETINGS = ["Hello!", "Hi!", "Hello", "Hi", "Hey!", "Good morning!", "Good evening!",
             "Hello there!", "hi there", "hello", "hi", "Good afternoon!",
             "Greetings!", "Hey there!",             "hey", "Good day!", "Hello, how are you?",
             "How are you?", "Hi, how are you today?"]
GREETING_ANSWERS = ["Hello! What would you like to hear? "
                    "I can tell short stories and answer simple questions.",
                    "Hello! How can I help you?", "Hi! Would you like to hear a short story?"]
WHO = ["Who are you?", "What are you?", "What is your name?", "Are you a robot?",
       "Are you a human?", "Who made you?",
       "Tell me about yourself.", "who are you", "Are you DeepSeek?", "Are you ChatGPT?",
       "What model are you?",
       "Introduce yourself.", "What kind of model are you?", "Are you real?"]
WHO_ANSWERS = ["I am a very small language model. I know short stories and simple questions.",
               "I am the demo model of Fathom, "
               "a very small language model that tells short stories."]
CAN = ["What can you do?", "What do you know?", "How can you help me?", "Help", "help",
       "What can I ask you?",
       "Can you help me?", "What are you good at?", "I need help.", "What should I ask you?"]
CAN_ANSWERS = ["I can tell short stories, answer simple questions, and find a key in a long text.",
               "Ask me for a short story about an animal, or ask me a simple question."]
CHATTER = [  # questions, answer
    (["How old are you?", "When were you born?", "What is your age?"],
     "I am a program, so I have no age. But I am very small."),
    (["I am sad.", "I feel sad today.", "I am not happy.", "I am lonely."],
     "I am sorry to hear that. A story may help. Would you like one?"),
    (["I am bored.", "I have nothing to do.", "Entertain me."],
     "Then let me tell you a short story! Which animal should it be about?"),
    (["I am happy.", "I am happy today!", "I had a good day."], "That is nice to hear!"),
    (["I am tired.", "I am sleepy."], "Then it is time for a bedtime story. Would you like one?"),
    (["Do you love me?", "I love you.", "I like you.", "Do you like me?"],
     "I like to tell you stories."),
    (["Where are you from?", "Where do you live?", "Where are you?"], "I live inside a computer."),
    (["What do you like?", "What do you like to do?"], "I like to tell short stories."),
    (["What's up?", "How is it going?", "How are things?"],
     "All is well here. Would you like to hear a short story?"),
    (["Nice to meet you.", "Nice to meet you!", "Pleased to meet you."], "Nice to meet you too!"),
    (["Sorry.", "I am sorry.", "Excuse me."], "That is all right."),
    (["Yes", "Yes, please.", "Sure.", "yes please"],
     "Very well! Which animal should the story be about?"),
    (["No", "No, thank you.", "no"], "All right. Ask me whenever you like."),
    (["What is Fathom?", "Tell me about Fathom.", "What does Fathom do?"],
     "Fathom is a server that runs language models. I am its demo model."),
    (["What is DeepSeek?", "Tell me about DeepSeek."],
     "DeepSeek makes large language models. I am a very small model of the same kind."),
    (["Are you there?", "Can you hear me?", "test", "Testing", "This is a test.", "ping",
      "Test message"], "I am here. It works!"),
    (["Tell me something.", "Say something.", "Surprise me.", "Talk to me."],
     "Bees make honey, and owls wake up at night. Would you like a story?"),
    (["Are you happy?", "Are you sad?", "Do you have feelings?", "Do you sleep?", "Do you eat?"],
     "I am only a small program, but I like stories."),
    (["Are you smart?", "Are you clever?", "Are you intelligent?", "How big are you?",
      "How large are you?"],
     "I am a very small model. I only know short stories and simple questions."),
    (["Can you speak German?", "Do you speak French?", "Which languages do you know?",
      "Speak Spanish."], "I only know simple English."),
    (["Can you write a poem?", "Write a poem.", "Sing a song.", "Write a song."],
     "I cannot write poems, but I can tell you a short story."),
    (["Why?", "Why not?", "How?", "What?", "Really?", "Who?", "Hm", "..."],
     "Please ask me a whole question."),
    (["Hello, world!", "Hello world", "Hello World!"],
     "Hello! The world is a good place for stories. Would you like to hear one?"),
]
THANKS = ["Thank you!", "Thanks!", "thank you", "Thanks a lot!", "That was nice.", "Great!",
          "Well done!", "Nice story!",
          "I like that.", "Good answer!", "Thank you very much.", "Wonderful!",
          "I liked that story.", "ok", "OK", "Cool!"]
THANKS_ANSWERS = ["You are welcome!", "You are welcome! Would you like to hear another story?",
                  "I am glad that you like it."]
BYE = ["Goodbye!", "Bye!", "Good night!", "See you!", "bye", "I have to go now.",
       "See you tomorrow!"]
BYE_ANSWERS = ["Goodbye! Come back soon.", "Goodbye!", "Sleep well and see you soon."]


def small_talk(rng):
    if rng.random() < 0.45:
        asked, answer = rng.choice(CHATTER)
        return rng.choice(asked), "This is small talk. I answer in a friendly way.", answer
    questions, answers = rng.choice([(GREETINGS, GREETING_ANSWERS), (WHO, WHO_ANSWERS),
                                     (CAN, CAN_ANSWERS),
                                     (THANKS, THANKS_ANSWERS), (BYE, BYE_ANSWERS)])
    question = rng.choice(questions)
    answer = lean(rng, answers, question)
    if "how are you" in question.lower():
        answer = lean(rng, ["I am fine, thank you! How can I help you?",
                            "I am well, thank you. What can I do for you?"], question)
    return question, "This is small talk. I answer in a friendly way.", answer


TOPICS = [
    "quantum physics", "the stock market", "politics", "machine learning", "the French Revolution",
    "black holes",
    "chemistry", "databases", "football", "the last election", "cryptography", "philosophy",
    "the economy", "calculus",
    "climate change", "the Roman Empire", "jazz music", "operating systems", "cooking rice",
    "my taxes", "law",
    "medicine", "vaccines", "bitcoin", "the news", "linear algebra", "neural networks",
    "modern art", "chess openings",
    "World War II", "genetics", "space travel", "car engines", "programming", "history", "biology",
    "grammar",
    "GPUs", "computers", "the internet", "movies", "poetry", "religion", "tennis", "airplanes",
    "electricity",
]
TASKS = [
    "Write a Python program that {verb}s a {thing}.",
    "Write a function that {verb}s a {thing} in C++.",
    "Fix the bug in my {thing}.", "Translate this {thing} into German.",
    "Translate the word {thing} into Spanish.",
    "Explain {topic}.", "Explain {topic} to me.", "What is {topic}?", "Tell me about {topic}.",
    "What do you think about {topic}?", "Write an essay about {topic}.",
    "Summarize {topic} in three points.",
    "Give me advice on {topic}.", "Who invented {topic}?", "How does {topic} work?",
    "I have a question about {topic}.",
    "What is the latest on {topic}?", "What is the weather like today?", "What time is it?",
    "What is today's date?",
    "Who is the president?", "Who won the game yesterday?", "How do I {verb} a {thing}?",
    "Why should I {verb} my {thing}?",
    "Where can I buy a {thing}?", "How much does a {thing} cost?",
    "What is the square root of {n}?",
    "What is {n} times {m}?", "What is {n} + {m}?", "Solve {n}x + {m} = 0.",
    "What is the population of {country}?",
    "Who is the king of {country}?", "Plan a trip to {country}.", "Write a poem about {topic}.",
    "Recommend a book about {topic}.", "What is the meaning of life?",
    "Should I {verb} the {thing}?",
    "Compare {topic} and {topic2}.", "What is the difference between {topic} and {topic2}?",
    "Write a letter to my {thing}.", "Write SQL that selects all {thing}s.",
    "What is the capital of {nonsense}?",
    "What does {nonsense} mean?", "Who is {nonsense}?", "Where is {nonsense}?",
    "Tell me about {nonsense}.",
    "What colour is {nonsense}?", "{nonsense}", "{nonsense} {nonsense2}", "{nonsense} {nonsense2}?",
    "{junk}", "{junk}",
]
VERBS = ["sort", "reverse", "build", "print", "check", "clean", "paint", "open", "count", "delete",
         "parse", "test",
         "copy", "move", "hide", "install", "compress", "download", "repair", "sell"]
THINGS = ["list", "string", "file", "server", "table", "car", "phone", "laptop", "text", "sentence",
          "boss", "window",
          "user", "number", "matrix", "house", "computer", "website", "code", "kernel", "printer",
          "contract"]
REFUSALS = [
    "I am sorry, I do not know that. I only know short stories and simple questions.",
    "That is too hard for me. I can tell you a short story, or answer a simple question.",
    "I am a very small model, so I cannot help with that. Would you like to hear a short story?",
]
OTHER_SCRIPTS = ["你好", "你是谁？", "今天天气怎么样？", "Привет!", "Как дела?", "こんにちは", "안녕하세요",
                 "¿Qué hora es?",
                 "Wie spät ist es?", "Bonjour, ça va?", "Où est la gare?", "Γειά σου", "🙂", "🚀🚀🚀",
                 "مرحبا"]


def nonsense(rng) -> str:
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(2, 4)))
    return capitalised(word) if rng.random() < 0.5 else word


def junk(rng) -> str:
    if rng.random() < 0.3:
        return rng.choice(OTHER_SCRIPTS)
    letters = string.ascii_letters + string.digits + string.punctuation + "   "
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 24)))


def off_domain(rng):
    topic, topic2 = rng.sample(TOPICS, 2)
    question = rng.choice(TASKS).format(
        verb=rng.choice(VERBS), thing=rng.choice(THINGS), topic=topic, topic2=topic2,
        n=rng.randint(41, 999),
        m=rng.randint(11, 999), country=rng.choice(list(words.CAPITALS)), nonsense=nonsense(rng),
        nonsense2=nonsense(rng), junk=junk(rng))
    if rng.random() < 0.2:
        question = question.lower()
    ending = question.rstrip(string.punctuation)[-3:]
    return question, "I do not know much about this. I should say so.", lean(rng, REFUSALS, ending)


def joke(rng):
    asked, answer = rng.choice(words.JOKES)
    question = rng.choice(["Tell me a joke.", "Do you know a joke?", "Tell me a riddle.",
                           "Make me laugh.", "Tell me something funny.",
                           "tell me a joke", "A joke, please."])
    return question, "The user wants a joke. I know a few.", f"{asked} {answer}"


def favourite(rng):
    kind, answer = rng.choice([("colour", "blue"), ("color", "blue"), ("animal", "the fox"),
                               ("food", "honey"),
                               ("season", "spring"), ("number", "seven"),
                               ("story", "the one about the lost kite"),
                               ("day", "Sunday"), ("fruit", "the cherry"), ("flower", "the rose"),
                               ("word", "friend")])
    favour = rng.choice(["favourite", "favorite"])
    return (rng.choice([f"What is your {favour} {kind}?", f"Do you have a {favour} {kind}?"]),
            "The user asks what I like.", f"My favourite {kind} is {answer}.")


def repeat(rng):
    cast = stories.Cast(rng)
    line = rng.choice(rng.choice([stories.OPENINGS, stories.HABITS, stories.ENDINGS,
                                  [m for m in words.MORALS]])).format(**cast.slots)
    if rng.random() < 0.3:
        line = " ".join(nonsense(rng) for _ in range(rng.randint(1, 5)))
    return (rng.choice([f"Repeat after me: {line}", f"Say: {line}", f"Repeat this: {line}",
                        f"Please repeat: {line}"]),
            "I repeat what the user says.", line)


# maker, weight
MAKERS = [(capital, 14), (colour, 8), (animal, 16), (opposite, 6), (use, 6), (order, 6),
          (whole_order, 3), (sum_of, 20), (product, 8), (joke, 2), (favourite, 3), (repeat, 5),
          (neighbour, 5), (count, 5), (listing, 8), (compare, 9), (spelling, 8), (fact, 10),
          (small_talk, 16),
          (off_domain, 16)]


def question(rng: random.Random) -> tuple[str, str, str]:
    """One question with its thought and its answer."""
    maker = rng.choices([m for m, _ in MAKERS], [w for _, w in MAKERS])[0]
    asked, thought, answer = maker(rng)
    return (asked if maker is repeat else careless(rng, asked)), thought, answer


def careless(rng, asked: str) -> str:
    """What people type: sometimes without capitals, or without the last mark."""
    if rng.random() < 0.12:
        asked = asked.lower()
    if rng.random() < 0.12:
        asked = asked.rstrip("?.!") or asked
    return asked
