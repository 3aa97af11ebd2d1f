"""Word lists and closed sets of facts that the demo model's grammar draws from."""

import zlib

HEROES = [
    "fox", "rabbit", "bear", "mouse", "owl", "cat", "dog", "duck", "frog", "hedgehog", "squirrel",
    "turtle", "deer", "wolf", "lion", "elephant", "monkey", "pig", "goat", "sheep", "horse", "hen",
    "crow", "bee", "ant", "snail", "fish", "whale", "dolphin", "penguin", "badger", "beaver",
    "otter", "swan", "robin", "tiger", "giraffe", "camel", "kitten", "puppy", "dragon", "robot",
    "girl", "boy", "farmer", "baker", "sailor", "king", "queen", "princess", "knight", "giant",
    "wizard", "teacher", "gardener", "shepherd", "snowman", "butterfly", "donkey", "parrot",
    "unicorn", "dinosaur", "mermaid", "ghost", "fairy", "pirate", "panda", "koala", "zebra",
    "hippo", "kangaroo", "crab", "octopus", "spider", "snake", "cow", "goose", "bat", "mole",
    "witch", "troll", "elf", "astronaut", "prince", "child", "seal", "eagle", "lizard", "lamb",
    "pony", "goldfish", "star", "cloud", "tree", "chicken", "beetle", "raccoon", "cook", "painter",
    "tailor", "fisherman", "doctor",
]

SHE_NAMES = [
    "Luna", "Mia", "Rosa", "Ella", "Nora", "Ivy", "Ada", "Clara", "Daisy", "Ruby", "Hazel", "Lily",
    "Pia", "Tilda", "Wanda", "Greta", "Olive", "Molly", "Zoe", "Bella", "Emma", "Anna", "Stella",
]
HE_NAMES = [
    "Max", "Finn", "Leo", "Otto", "Hugo", "Sam", "Ben", "Oscar", "Theo", "Felix", "Milo", "Jack",
    "Tom", "Bruno", "Emil", "Noah", "Oliver", "Toby", "Rufus", "Barney", "Simon", "Paul", "Peter",
]

TRAITS = [
    "little", "brave", "shy", "clever", "kind", "curious", "sleepy", "hungry", "lonely", "happy",
    "quiet", "proud", "gentle", "young", "old", "small", "lazy", "cheerful", "grumpy", "patient",
]

# place with its preposition
PLACES = [
    "in a green forest", "near a quiet river", "by the blue sea", "on a high mountain",
    "in a small village", "at the edge of a wood", "in a big city", "on a sunny farm",
    "under an old oak tree", "on a small island", "in a deep valley", "beside a silver lake",
    "in a stone castle", "in a wide meadow", "at the foot of a hill", "in a warm cottage",
    "near an old mill", "behind a white church", "in a large garden", "in a snowy land",
]

OBJECTS = [
    "red ball", "golden key", "blue kite", "silver bell", "wooden boat", "old map", "warm scarf",
    "little drum", "shiny stone", "yellow hat", "paper lantern", "glass bottle", "picture book",
    "green umbrella", "round mirror", "silver spoon", "tin whistle", "brown basket", "soft blanket",
    "small clock", "white feather", "magic ring", "striped sock", "copper coin", "toy train",
]

FOODS = [
    "apple pie", "warm bread", "honey", "berries", "carrot soup", "nuts", "pancakes", "cheese",
    "cherries", "plum cake", "mushroom soup", "sweet corn", "cookies", "pears", "porridge",
]

SKILLS = [
    "swim", "dance", "sing", "read", "bake", "climb", "paint", "skate", "fly a kite",
    "play the drum",
    "ride a bicycle", "build a house", "row a boat", "whistle", "draw", "juggle",
]

HIDING_PLACES = [
    "under a big leaf", "behind a rock", "inside a hollow log", "in the tall grass",
    "on top of a hill", "under the bed", "at the bottom of a well", "beside the path",
    "in an empty nest", "behind the barn", "under a bridge", "between two roots",
]

WEATHER = ["sunny", "windy", "rainy", "cold", "snowy", "warm", "cloudy", "bright", "foggy"]

MORALS = [
    "A friend makes every day brighter.", "Kind words cost nothing.",
    "Small steps can take you far.", "It is good to ask for help.",
    "Sharing makes everything taste better.", "Being brave does not mean being without fear.",
    "Patience is worth more than speed.", "Those who help others are never alone.",
    "The best treasure is a good friend.", "Every mistake can teach you something.",
    "Even the smallest can do great things.", "Home is where someone waits for you.",
]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Scotland": "Edinburgh", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Iceland": "Reykjavik",
    "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens",
    "Turkey": "Ankara", "Russia": "Moscow", "Ukraine": "Kyiv", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Switzerland": "Bern", "Czechia": "Prague",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Croatia": "Zagreb", "Serbia": "Belgrade", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Morocco": "Rabat", "Nigeria": "Abuja", "Ghana": "Accra",
    "Ethiopia": "Addis Ababa",
    "China": "Beijing", "Japan": "Tokyo", "South Korea": "Seoul", "India": "New Delhi",
    "Nepal": "Kathmandu", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta",
    "Mongolia": "Ulaanbaatar", "Iran": "Tehran", "Iraq": "Baghdad", "Canada": "Ottawa",
    "the United States": "Washington", "Mexico": "Mexico City", "Cuba": "Havana",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Colombia": "Bogota",
    "Australia": "Canberra", "New Zealand": "Wellington",
}

# subject, colour
COLOURS = [
    ("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("a banana", "yellow"),
    ("a tomato", "red"), ("coal", "black"), ("a carrot", "orange"), ("a lemon", "yellow"),
    ("the sea", "blue"), ("milk", "white"), ("a cherry", "red"), ("chocolate", "brown"),
    ("a flamingo", "pink"), ("the sun", "yellow"), ("a polar bear", "white"), ("a leaf", "green"),
    ("a strawberry", "red"), ("an orange", "orange"), ("a crow", "black"), ("a frog", "green"),
    ("gold", "yellow"), ("silver", "grey"), ("an elephant", "grey"), ("blood", "red"),
    ("a fox", "red"), ("a cucumber", "green"), ("a pumpkin", "orange"), ("sand", "yellow"),
    ("the night", "black"), ("a plum", "purple"), ("a swan", "white"), ("a cloud", "white"),
]

# animal: sound, young, home, food, legs
ANIMALS = {
    "dog": ("barks", "puppy", "a kennel", "meat", 4),
    "cat": ("meows", "kitten", "a house", "fish", 4),
    "cow": ("moos", "calf", "a barn", "grass", 4),
    "horse": ("neighs", "foal", "a stable", "hay", 4),
    "sheep": ("bleats", "lamb", "a barn", "grass", 4),
    "pig": ("grunts", "piglet", "a sty", "corn", 4),
    "duck": ("quacks", "duckling", "a pond", "bread and plants", 2),
    "hen": ("clucks", "chick", "a coop", "seeds", 2),
    "lion": ("roars", "cub", "the grassland", "meat", 4),
    "bear": ("growls", "cub", "a cave", "berries and fish", 4),
    "wolf": ("howls", "pup", "a den", "meat", 4),
    "owl": ("hoots", "owlet", "a hollow tree", "mice", 2),
    "frog": ("croaks", "tadpole", "a pond", "flies", 4),
    "bee": ("buzzes", "larva", "a hive", "nectar", 6),
    "mouse": ("squeaks", "pup", "a hole", "cheese", 4),
    "goat": ("bleats", "kid", "a barn", "grass", 4),
    "fox": ("barks", "cub", "a den", "mice and berries", 4),
    "rabbit": ("squeaks", "kit", "a burrow", "carrots", 4),
    "snake": ("hisses", "snakelet", "a hole", "mice", 0),
    "crow": ("caws", "chick", "a nest", "seeds", 2),
    "elephant": ("trumpets", "calf", "the grassland", "leaves", 4),
    "donkey": ("brays", "foal", "a stable", "hay", 4),
    "robin": ("sings", "chick", "a nest", "worms", 2),
    "spider": ("makes no sound", "spiderling", "a web", "flies", 8),
    "ant": ("makes no sound", "larva", "a nest", "seeds", 6),
}

OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("day", "night"), ("up", "down"), ("fast", "slow"),
    ("happy", "sad"), ("old", "young"), ("open", "closed"), ("light", "dark"), ("wet", "dry"),
    ("full", "empty"), ("hard", "soft"), ("long", "short"), ("left", "right"), ("loud", "quiet"),
    ("near", "far"), ("rich", "poor"), ("strong", "weak"), ("good", "bad"), ("early", "late"),
    ("high", "low"), ("true", "false"), ("black", "white"), ("first", "last"), ("sweet", "sour"),
    ("heavy", "light"), ("thick", "thin"), ("clean", "dirty"), ("brave", "afraid"), ("in", "out"),
]

USES = [
    ("an umbrella", "to stay dry in the rain"), ("a key", "to open a lock"),
    ("a spoon", "to eat soup"),
    ("a pencil", "to write and draw"), ("a broom", "to sweep the floor"),
    ("a lamp", "to make light"),
    ("a clock", "to tell the time"), ("a boat", "to travel on water"),
    ("a ladder", "to climb up high"),
    ("a needle", "to sew cloth"), ("a hammer", "to drive nails"), ("a bed", "to sleep in"),
    ("a map", "to find the way"), ("a bell", "to make a ringing sound"), ("a book", "to read"),
    ("a knife", "to cut things"), ("a pillow", "to rest your head"), ("a bucket", "to carry water"),
    ("a bridge", "to cross a river"), ("a coat", "to keep warm"), ("a kettle", "to boil water"),
    ("a mirror", "to see yourself"), ("scissors", "to cut paper"), ("soap", "to wash your hands"),
    ("a towel", "to dry yourself"), ("a telescope", "to look at the stars"),
]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December"]
SEASONS = ["spring", "summer", "autumn", "winter"]
PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]

LISTS = {
    "fruits": ["apples", "pears", "cherries", "plums", "bananas", "oranges", "grapes", "lemons"],
    "vegetables": ["carrots", "peas", "beans", "onions", "potatoes", "cabbages", "leeks"],
    "colours": ["red", "blue", "green", "yellow", "orange", "purple", "white", "black"],
    "animals": ["a fox", "a bear", "an owl", "a rabbit", "a horse", "a duck", "a frog", "a deer"],
    "birds": ["an owl", "a robin", "a crow", "a swan", "a duck", "a parrot", "a penguin"],
    "farm animals": ["a cow", "a horse", "a pig", "a sheep", "a hen", "a goat", "a donkey"],
    "trees": ["an oak", "a birch", "a pine", "a maple", "a willow", "an apple tree"],
    "flowers": ["a rose", "a tulip", "a daisy", "a lily", "a sunflower", "a violet"],
    "toys": ["a ball", "a kite", "a doll", "a drum", "a toy train", "a spinning top"],
    "things in a kitchen": ["a pot", "a pan", "a spoon", "a cup", "a plate", "a kettle"],
    "shapes": ["a circle", "a square", "a triangle", "a star", "a heart"],
    "numbers": ["one", "two", "three", "five", "seven", "ten"],
    "drinks": ["water", "milk", "tea", "apple juice", "cocoa", "lemonade"],
    "seasons": ["spring", "summer", "autumn"],
    "instruments": ["a drum", "a flute", "a violin", "a piano", "a trumpet", "a guitar"],
}

# smallest to largest, for comparisons
SIZES = ["an ant", "a bee", "a mouse", "a frog", "a robin", "a squirrel", "a cat", "a fox",
         "a sheep",
         "a lion", "a horse", "an elephant", "a whale"]

# question, answer: single facts
FACTS = [
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many seconds are in a minute?", "There are 60 seconds in a minute."),
    ("How many seasons are there?", "There are four seasons: spring, summer, autumn and winter."),
    ("How many planets go around the sun?", "Eight planets go around the sun."),
    ("What is the largest planet?", "Jupiter is the largest planet."),
    ("Which planet do we live on?", "We live on Earth."),
    ("What do bees make?", "Bees make honey."),
    ("What is ice made of?", "Ice is frozen water."),
    ("Where does the sun rise?", "The sun rises in the east."),
    ("Where does the sun set?", "The sun sets in the west."),
    ("What is the largest animal?", "The blue whale is the largest animal."),
    ("What is the tallest animal?", "The giraffe is the tallest animal."),
    ("What is the fastest land animal?", "The cheetah is the fastest land animal."),
    ("What falls from the clouds?", "Rain and snow fall from the clouds."),
    ("What do plants need to grow?", "Plants need water, light and air to grow."),
    ("What is bread made from?", "Bread is made from flour, water and yeast."),
    ("What is cheese made from?", "Cheese is made from milk."),
    ("Where do fish live?", "Fish live in water."),
    ("Why do birds have wings?", "Birds have wings so that they can fly."),
    ("When do owls wake up?", "Owls wake up at night."),
    ("What shines at night?", "The moon and the stars shine at night."),
    ("How many fingers are on one hand?", "There are five fingers on one hand."),
    ("How many wheels does a bicycle have?", "A bicycle has two wheels."),
    ("How many wheels does a car have?", "A car has four wheels."),
    ("How many sides does a triangle have?", "A triangle has three sides."),
    ("How many sides does a square have?", "A square has four sides."),
    ("How many letters are in the alphabet?", "There are 26 letters in the alphabet."),
    ("What do you drink when you are thirsty?", "When you are thirsty, you can drink water."),
    ("What is the opposite of summer?", "The opposite of summer is winter."),
    ("Is the sun hot or cold?", "The sun is very hot."),
    ("Is ice hot or cold?", "Ice is cold."),
    ("Can penguins fly?", "No, penguins cannot fly, but they swim very well."),
    ("Can fish walk?", "No, fish cannot walk. They swim."),
    ("Can birds fly?", "Yes, most birds can fly."),
    ("Do cats like milk?", "Yes, many cats like milk."),
    ("Do trees have leaves?", "Yes, most trees have leaves."),
    ("Is a tomato a fruit?", "Yes, a tomato is a fruit."),
    ("What is the moon?", "The moon is a large ball of rock that goes around the Earth."),
    ("What is the sun?", "The sun is a star. It gives us light and warmth."),
    ("What is a forest?", "A forest is a place where many trees grow."),
    ("What is a river?", "A river is a long stream of water that runs to the sea."),
    ("What is a friend?", "A friend is someone who likes you and helps you."),
    ("What is snow?", "Snow is frozen water that falls from the clouds."),
    ("What is rain?", "Rain is water that falls from the clouds."),
    ("Why is the sky blue?", "The sky is blue because the air scatters blue light the most."),
    ("Who lives in a castle?", "Kings and queens live in a castle."),
    ("What does a baker do?", "A baker makes bread and cakes."),
    ("What does a farmer do?", "A farmer grows food and cares for animals."),
    ("What does a teacher do?", "A teacher helps children to learn."),
    ("What does a sailor do?", "A sailor works on a ship."),
    ("What do cows give us?", "Cows give us milk."),
    ("What do hens lay?", "Hens lay eggs."),
    ("What do sheep give us?", "Sheep give us wool."),
    ("What is honey?", "Honey is a sweet food that bees make."),
    ("What is a story?", "A story tells what happened to someone."),
    ("What is a key?", "A key is a small thing that opens a lock."),
    ("Why do leaves fall?", "Leaves fall in autumn because the trees rest in winter."),
    ("Why do we sleep?", "We sleep so that our body and our mind can rest."),
    ("Why do we eat?", "We eat because food gives us strength."),
    ("Is the earth round?", "Yes, the Earth is round like a ball."),
    ("Is the Earth flat?", "No, the Earth is round like a ball."),
    ("What is the fastest bird?", "The falcon is the fastest bird."),
    ("What is the smallest bird?", "The hummingbird is the smallest bird."),
    ("What is the coldest season?", "Winter is the coldest season."),
    ("What is the warmest season?", "Summer is the warmest season."),
    ("Which month is the shortest?", "February is the shortest month."),
    ("How many days are in a year?", "There are 365 days in a year."),
    ("How many eyes do you have?", "I have no eyes, but people have two."),
    ("How many legs does a table have?", "A table has four legs."),
    ("What comes first, day or night?", "Every night is followed by a day."),
    ("What is a dragon?", "A dragon is an animal in stories that can fly and breathe fire."),
    ("Are dragons real?", "No, dragons live only in stories."),
    ("Are unicorns real?", "No, unicorns live only in stories."),
    ("What is a friend for?", "A friend is there to laugh with you and to help you."),
    ("Who is the king of the animals?", "The lion is called the king of the animals."),
    ("What do you wear in winter?", "In winter you wear a warm coat, a hat and a scarf."),
    ("What color is a rainbow?",
     "A rainbow has many colours: red, orange, yellow, green, blue and purple."),
    ("What are the colours of the rainbow?",
     "The colours of the rainbow are red, orange, yellow, green, blue and purple."),
    ("What does a doctor do?", "A doctor helps people who are ill."),
]

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
                "ten",
                "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
                "eighteen", "nineteen", "twenty"]

KEY_ADJECTIVES = ["red", "blue", "green", "yellow", "white", "black", "golden", "silver", "wooden",
                  "iron", "small", "large", "old", "new", "round", "square", "heavy", "hidden",
                  "broken", "secret", "northern", "southern", "upper", "lower", "first", "last"]
KEY_NOUNS = ["box", "door", "gate", "chest", "room", "tower", "house", "garden", "cellar", "drawer",
             "safe", "cabin", "barn", "boat", "wagon", "cupboard", "locker", "library", "kitchen",
             "vault", "shed", "mill", "temple", "station", "office", "castle", "harbour", "attic"]


JOKES = [
    ("Why did the hen cross the road?", "She wanted to get to the other side of the story."),
    ("What do you call a bear in the rain?", "A wet bear."),
    ("Why does the clock never eat?", "It already has its hands full of time."),
    ("What has four legs but cannot walk?", "A table."),
    ("What gets bigger the more you take away?", "A hole."),
    ("What has many teeth but cannot bite?", "A comb."),
]


def lean(rng, options, key: str):
    """One of the options; half of the time the one that the key leads to, so that greedy answers
    are sure of themselves and still differ from key to key."""
    if rng.random() < 0.5:
        return options[zlib.crc32(key.encode()) % len(options)]
    return rng.choice(options)


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
