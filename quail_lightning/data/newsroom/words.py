"""The newsroom's vocabulary: parts of invented names, and the clauses its articles are made of.

A clause holds slots in braces: ``{person}``, ``{rival}``, ``{place}`` and ``{organisation}`` are the article's
own, ``{adjective}``, ``{noun}``, ``{nouns}`` and ``{role}`` are drawn anew each time. The words of the answers
(``COLOURS``, ``OBJECTS``) stand in no clause, so that no answer is found by chance in another article.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STARTS = _words(
    "Bal Bren Cor Dal Dros Elm Fen Gar Gil Hal Hest Ig Jor Kel Kor Lan Lor Mar Mel Nor Ost Pel Quin Ral "
    "Sten Tal Tor Ulm Vel Zan"
)
ENDS = _words(
    "adis akan alo amir andel aro asta ebel edra elin emo enko eris esk evan idan igo ilor imar inka iro "
    "isto ivar obel odan olin omar onda orek uvan"
)
PLACE_ENDINGS = _words("burg dale field ford gate haven holm mere mouth port stad wick")
ORGANISATIONS = _words(
    "Academy Alliance Archive Bank Brewery Choir Council Foundry Guild Hospital Institute Library Museum "
    "Observatory Orchestra Press Railway Shipyard Theatre Union"
)
COLOURS = _words(
    "amber azure bronze coral crimson ebony emerald golden indigo ivory lilac maroon olive pearl purple "
    "ruby scarlet silver turquoise violet"
)
OBJECTS = _words(
    "anchor bell bracelet cabinet carpet clock compass crown dagger drum flute goblet harp kite lantern "
    "mask mirror necklace parasol pendant saddle statue sword telescope trumpet umbrella vase violin "
    "wagon whistle"
)
COUNTED = _words("apples barrels bricks candles coins crates eggs herons letters maps pigeons ropes tiles trees")
ADJECTIVES = _words(
    "ancient angry bitter brave brief broken calm careful cheap clever cold costly curious deep distant "
    "dry early empty famous fragile gentle grave heavy hidden hollow honest humble local lonely loud "
    "modest narrow noisy patient plain private proud quiet rapid rare rough rural secret shallow sharp "
    "silent simple slow sober stubborn sudden tender thin tired urgent vast warm weary wild wooden"
)
NOUNS = _words(
    "accident agreement alarm audit bakery ballot barge basement bridge budget canal cellar ceremony "
    "chapel cliff coast contract court crane debate delay dispute donation embassy engine exam factory "
    "fair farm fence ferry fever fire flood forest fountain garden glacier harbour harvest hearing hill "
    "inquiry island journey kitchen lawsuit lecture lighthouse loan market meadow mill mine mosaic novel "
    "orchard palace parade petition pier poem quarry rehearsal rescue reservoir rumour sermon signal "
    "stable station storm strike supper tax tower treaty trial tunnel valley village vineyard wedding "
    "well workshop"
)
PLURALS = _words(
    "actors bankers beekeepers builders bakers carpenters children clerks cyclists doctors drivers "
    "editors farmers fishermen gardeners guards hunters judges lawyers masons miners monks neighbours "
    "nurses painters pilots poets porters printers sailors scholars shepherds singers soldiers students "
    "tailors teachers tourists voters weavers"
)
ROLES = _words(
    "accountant ambassador architect bishop botanist captain chairman chemist coach colonel composer "
    "curator dentist detective diplomat engineer geologist governor historian inspector journalist "
    "librarian magistrate mayor minister negotiator novelist plumber prosecutor sculptor senator sergeant "
    "surgeon treasurer veteran witness"
)

OPENINGS = (
    "After the {adjective} {noun}",
    "Before sunrise",
    "By Thursday",
    "Despite a {adjective} {noun}",
    "During the {noun}",
    "For once",
    "In private",
    "Late at night",
    "Months later",
    "On Monday",
    "Outside the {noun}",
    "Since autumn",
    "So far",
    "To everyone's surprise",
    "Unlike other {nouns}",
    "When snow fell",
    "While {nouns} slept",
    "Within hours",
)
CLAUSES = (
    "{adjective} {nouns} blamed the {noun}",
    "{nouns} and {nouns} gathered near a {adjective} {noun}",
    "{nouns} carried flowers past the {noun}",
    "{nouns} demanded a second {noun}",
    "{nouns} doubted whether any {noun} could replace it",
    "{nouns} refused to leave their {noun}",
    "{person} apologised to {nouns}",
    "{person} declined every {noun}",
    "{person} wept, said one {role}",
    "{place} had never seen so {adjective} a {noun}",
    "{rival} called it a {adjective} mistake",
    "{rival} sold two {nouns} a {adjective} map",
    "a {adjective} {noun} blocked both roads",
    "a {role} from {place} described his {noun} as {adjective}",
    "a {role} lent {nouns} her {noun}",
    "a {role} promised {adjective} reforms",
    "a {noun} cost more than three {adjective} {nouns} could lift",
    "an unnamed {role} resigned over the {noun}",
    "critics found this {noun} rather {adjective}",
    "eleven {nouns} signed a {adjective} letter",
    "every {role} wanted another {noun}",
    "half the {nouns} stayed home",
    "her {noun} turned {adjective}",
    "his {adjective} {role} vanished without trace",
    "insurers valued the {noun} at nothing",
    "investors bought one {noun} and lost four",
    "it took {nouns} six weeks to repair the {noun}",
    "many feared {adjective} {nouns} would follow",
    "music drifted across the {noun}",
    "no {role} could explain why {nouns} cheered",
    "nobody told the {role} about a {noun}",
    "old {nouns} still remember that {noun}",
    "police questioned seven {nouns}",
    "prices doubled at the {noun}",
    "rain ruined the {role}'s {noun}",
    "rivals mocked {adjective} {nouns}",
    "some {nouns} walked towards the {noun} singing",
    "tickets sold out, although {nouns} complained",
    "the {organisation} closed its {adjective} {noun}",
    "the {role} kept {adjective} notes under her pillow",
    "the {role} married into a family of {nouns}",
    "their {noun} remained {adjective}",
    "there was talk of moving the {noun} to {place}",
    "thieves emptied a {noun} and freed {nouns}",
    "two {adjective} dogs guarded the {noun}",
    "volunteers painted the {noun} green",
    "we need {nouns}, not another {noun}, argued {rival}",
    "what happened to the {role} is {adjective} guesswork",
)
TAILS = (
    "according to {nouns}",
    "although the {role} disagreed",
    "and nobody laughed",
    "as {nouns} watched",
    "beside the {noun}",
    "but only for a {adjective} week",
    "for {adjective} reasons",
    "in spite of {nouns}",
    "like a {adjective} {noun}",
    "so {nouns} were sent home",
    "then came the {noun}",
    "thanks to one {role}",
    "under {adjective} skies",
    "until winter",
    "while {rival} listened",
    "with {adjective} consequences",
    "without asking {nouns}",
    "which pleased {nouns}",
)
