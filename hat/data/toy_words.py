"""The words of the toy sentences; German in the shorthands of hat/data/toy_numbers.py."""

# english | article and German | German plural (things only)
PEOPLE = """
man | der Mann
woman | die Frau
child | das Kind
girl | das M"adchen
teacher | der Lehrer
doctor | die "Arztin
baker | der B"acker
king | der K"onig
queen | die K"onigin
uncle | der Onkel
aunt | die Tante
friend | der Freund
neighbour | die Nachbarin
cook | der Koch
painter | der Maler
singer | die S"angerin
pupil | der Sch"uler
baby | das Baby
sister | die Schwester
brother | der Bruder
"""
THINGS = """
car | das Auto | Autos
house | das Haus | H"auser
book | das Buch | B"ucher
chair | der Stuhl | St"uhle
table | der Tisch | Tische
lamp | die Lampe | Lampen
clock | die Uhr | Uhren
box | die Kiste | Kisten
apple | der Apfel | "Apfel
letter | der Brief | Briefe
picture | das Bild | Bilder
bag | die Tasche | Taschen
key | der Schl"ussel | Schl"ussel
coat | der Mantel | M"antel
shirt | das Hemd | Hemden
flower | die Blume | Blumen
bottle | die Flasche | Flaschen
bicycle | das Fahrrad | Fahrr"ader
ball | der Ball | B"alle
hat | der Hut | H"ute
umbrella | der Schirm | Schirme
cup | die Tasse | Tassen
plate | der Teller | Teller
spoon | der L"offel | L"offel
glass | das Glas | Gl"aser
suitcase | der Koffer | Koffer
newspaper | die Zeitung | Zeitungen
egg | das Ei | Eier
cake | der Kuchen | Kuchen
telephone | das Telefon | Telefone
"""
PEOPLE_ADJECTIVES = "old alt|young jung|small klein|friendly freundlich|clever klug|rich reich|strong stark"
THING_ADJECTIVES = (
    'old alt|new neu|big gro"s|small klein|red rot|green gr"un|blue blau|white wei"s|black schwarz|'
    'yellow gelb|beautiful sch"on|cheap billig|heavy schwer|strange seltsam|clean sauber'
)
# English base | third person | German infinitive, a separable prefix before the dot | forms of ich and er
VERBS = """
buy | buys | kaufen | kaufe kauft
see | sees | sehen | sehe sieht
need | needs | brauchen | brauche braucht
find | finds | finden | finde findet
bring | brings | bringen | bringe bringt
sell | sells | verkaufen | verkaufe verkauft
take | takes | nehmen | nehme nimmt
paint | paints | malen | male malt
have | has | haben | habe hat
pick up | picks up | ab.holen | hole holt
look at | looks at | an.sehen | sehe sieht
take along | takes along | mit.nehmen | nehme nimmt
bring back | brings back | zur"uck.bringen | bringe bringt
try out | tries out | aus.probieren | probiere probiert
"""
INTRANSITIVE = """
sleep | sleeps | schlafen | schlafe schl"aft
work | works | arbeiten | arbeite arbeitet
play | plays | spielen | spiele spielt
wait | waits | warten | warte wartet
sing | sings | singen | singe singt
get up | gets up | auf.stehen | stehe steht
arrive | arrives | an.kommen | komme kommt
come back | comes back | zur"uck.kommen | komme kommt
fall asleep | falls asleep | ein.schlafen | schlafe schl"aft
"""
MODALS = """
can | can | k"onnen | kann kann
must | must | m"ussen | muss muss
should | should | sollen | soll soll
want to | wants to | wollen | will will
"""
PRONOUNS = {"I": "ich", "he": "er", "she": "sie", "we": "wir", "they": "sie"}
PLACES = {
    "in the garden": "im Garten",
    "at school": "in der Schule",
    "in the city": "in der Stadt",
    "at the station": "am Bahnhof",
    "at home": "zu Hause",
    "in the kitchen": 'in der K"uche',
}
TIMES = {
    "today": "heute",
    "every day": "jeden Tag",
    "in the evening": "am Abend",
    "in the morning": "am Morgen",
    "in summer": "im Sommer",
    "in winter": "im Winter",
}
# what stands before a subordinate clause, conjunction included
OPENINGS = {
    "I know that": 'Ich wei"s, dass',
    "She says that": "Sie sagt, dass",
    "We hope that": "Wir hoffen, dass",
    "He asks whether": "Er fragt, ob",
    "Nobody believes that": "Niemand glaubt, dass",
    "They are glad because": "Sie sind froh, weil",
    "I am sad because": "Ich bin traurig, weil",
    "He stays at home although": "Er bleibt zu Hause, obwohl",
    "She waits until": "Sie wartet, bis",
    "We sing while": 'Wir singen, w"ahrend',
}
# what stands between a conjunction and the comma; the German verb is last
CONDITIONS = {
    "it rains": "es regnet",
    "it is cold": "es kalt ist",
    "the sun shines": "die Sonne scheint",
    "the shop is closed": "der Laden geschlossen ist",
    "nobody is there": "niemand da ist",
    "the train arrives": "der Zug ankommt",
}
CONJUNCTIONS = {"When": "Wenn", "Although": "Obwohl", "Because": "Weil"}
