# ruff: noqa: E501 - a line of the tables below is one record
"""The tables of the SQL task: three vocabularies without a table or column name in common.

One line a table: `table: column=kind ...`. A kind is

- `18-70`: whole numbers in that range, all different within one example,
- `@person`, `@place`, `@title`, `@firm`: a label, different in each row, from the split's own pool,
- `a|b|c`: a category, which repeats.

One line a join: `parent child key`; both tables get the column `key` when they are asked together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ftlab.tasks.splits import Split


@dataclass(frozen=True)
class Column:
    """A column: a number in [low, high] where `values` is empty, else text.

    `unique` says that a value of the text occurs in one row only.
    """

    name: str
    low: int = 0
    high: int = 0
    values: tuple[str, ...] = ()
    unique: bool = False

    @property
    def is_number(self) -> bool:
        return not self.values


@dataclass(frozen=True)
class Table:
    """A table with all columns it may be shown with."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The tables of one split, and which of them can be joined on which column."""

    tables: tuple[Table, ...]
    joins: tuple[tuple[Table, Table, str], ...]


_TABLES: dict[Split, str] = {
    "train": """
singers: name=@person age=18-70 country=France|Japan|Brazil|Kenya|Norway albums=1-40 genre=rock|pop|jazz|folk
employees: name=@person age=20-65 department=sales|legal|design|finance salary=2000-9000 city=Paris|Oslo|Lima|Cairo
books: title=@title author=@person year=1900-2020 pages=80-900 genre=novel|poetry|history|travel
movies: title=@title director=@person year=1950-2023 duration=70-210 studio=Apex|Lumen|Orion|Delta
flights: airline=Apex|Skyjet|Nova|Aerolux origin=Oslo|Rome|Lima|Cairo destination=Paris|Delhi|Tokyo|Quito delay=0-180 distance=200-9000
students: name=@person age=17-40 major=biology|physics|history|law score=40-100 city=Leeds|Bergen|Lyon|Turin
teachers: name=@person subject=math|music|art|latin experience=1-40 salary=1800-6000 school=Hillside|Oakwood|Northgate
hotels: name=@title city=Rome|Oslo|Lima|Delhi rooms=20-400 price=40-600 rating=10-99
cars: model=@title brand=Volta|Kestrel|Brava|Norden color=red|blue|black|white price=5000-60000 mileage=100-90000
products: name=@title category=toys|food|tools|books price=2-900 stock=0-500 supplier=@firm
orders: customer=@person total=10-900 status=paid|open|late|closed items=1-40 country=Spain|Italy|Chile|India
players: name=@person team=Hawks|Lions|Bears|Sharks position=guard|center|forward goals=0-60 age=17-40
teams: team=@title coach=@person city=Madrid|Porto|Genoa|Lille wins=0-60 points=10-99
cities: name=@place country=Peru|Ghana|Poland|Nepal population=1000-90000 area=20-900 region=north|south|east|west
rivers: name=@place length=40-6000 country=Peru|Egypt|China|Russia depth=2-90
mountains: name=@place height=800-8800 country=Nepal|Chile|Spain|Kenya region=north|south|east|west
dogs: name=@person breed=poodle|beagle|boxer|collie weight=3-60 age=1-25 owner=@person
cats: name=@person color=grey|black|orange|white weight=2-30 owner=@person
patients: name=@person age=1-95 disease=asthma|measles|malaria|flu ward=A|B|C|D weight=10-120
doctors: name=@person specialty=surgery|cardiology|oncology experience=1-40 city=Leeds|Lyon|Turin|Porto
restaurants: name=@title cuisine=thai|greek|indian|mexican city=Rome|Oslo|Lima|Cairo seats=10-200 rating=10-99
recipes: title=@title calories=80-1500 minutes=5-180 difficulty=easy|medium|hard cuisine=thai|greek|indian
buses: driver=@person seats=12-80 route=north loop|south loop|airport year=1990-2023
trains: origin=Lyon|Turin|Porto|Delhi destination=Genoa|Lille|Oslo|Quito speed=60-320 delay=0-120 operator=@firm
laptops: model=@title brand=Zenio|Quanta|Halo|Pixon price=200-4000 memory=4-128 weight=1-30
phones: model=@title brand=Zenio|Halo|Nokta|Pixon price=80-1800 battery=1500-7000 color=black|silver|gold
songs: title=@title artist=@person duration=90-600 year=1955-2023 genre=rock|pop|jazz|folk
concerts: venue=@place weekday=monday|friday|sunday year=1970-2023 attendance=100-9000 price=5-200
games: title=@title publisher=@firm year=1985-2023 score=10-99 platform=console|mobile|arcade
farms: owner=@person area=5-900 crop=wheat|maize|rice|barley region=north|south|east|west
houses: address=@place price=50000-900000 rooms=1-40 area=30-600 city=Leeds|Bergen|Lyon|Turin
schools: name=@title city=Paris|Oslo|Lima|Cairo students_count=50-2000 budget=1000-9000
companies: name=@firm industry=energy|retail|media|mining revenue=100-9000 founded=1850-2020 country=Spain|Japan|India
banks: name=@firm branches=2-300 assets=100-9000 country=Spain|Italy|Chile|Norway
airports: name=@place country=Peru|Ghana|Poland|Nepal runways=1-30 passengers=500-90000
courses: title=@title teacher=@person credits=1-30 level=basic|middle|advanced enrolled=5-300
projects: title=@title manager=@person budget=1000-90000 status=open|late|closed|paused
tickets: customer=@person price=5-300 status=new|used|expired seat=1-400
shops: name=@firm city=Madrid|Porto|Genoa|Lille sales=100-9000 employees_count=2-90
painters: name=@person born=1400-1990 style=cubist|baroque|modern|gothic country=France|Spain|Italy
paintings: title=@title year=1400-2020 price=100-90000 style=cubist|baroque|modern|gothic
athletes: name=@person sport=rowing|boxing|judo|tennis medals=0-30 height=150-215 country=Kenya|Japan|Cuba
parks: name=@place area=3-900 trees=10-9000 city=Rome|Delhi|Tokyo|Quito
loans: customer=@person amount=500-90000 rate=1-40 status=open|paid|late
""",
    "tuning": """
tractors: chassis=@title horsepower=30-500 gearbox=manual|hybrid|shuttle furrows=2-40
orchards: grower=@person fruit=apple|cherry|pear|plum yield_kg=100-9000 rows_planted=5-200
mines: foreman=@person ore=copper|nickel|zinc|silver shaft_depth=40-1200 output_tons=50-9000
aquariums: tank=@title fish_kind=guppy|tetra|betta|koi litres=20-900 salinity=1-40
theatres: playhouse=@place balcony_rows=2-60 curtain=velvet|linen|wool premiere=1750-2022
bicycles: rider=@person frame=steel|carbon|alloy gears=1-30 wheel_mm=300-800
castles: lord=@person moat=dry|wet|none towers=1-30 siege_year=1050-1700
webinars: speaker=@person viewers=10-4000 theme=privacy|climate|robotics webinar_mins=15-180
kilns: potter=@person glaze=ash|salt|celadon firing_temp=700-1400 pots=5-300
volcanoes: crater=@place last_eruption=1500-2023 lava=basalt|andesite|rhyolite summit_m=300-6500
parcels: recipient=@person grams=50-9000 courier=Swiftly|Parcelo|Redbox zone=inner|outer|rural
""",
    "held_out": """
vessels: captain=@person tonnage=100-9000 flag=Malta|Panama|Cyprus|Liberia harbor=Cork|Bremen|Odessa
bakeries: baker=@person loaves=20-900 flour=rye|spelt|oat|durum oven_heat=120-320
vineyards: winemaker=@person hectares=2-300 grape=merlot|malbec|syrah|riesling bottles=500-90000
satellites: maker=@firm orbit=polar|lunar|solar altitude=200-36000 launch_mass=50-9000
museums: curator=@person exhibits=20-4000 visitors=100-90000 wing=marble|glass|brick
hives: keeper=@person colonies=1-60 honey_grams=100-9000 nectar=clover|heather|lime
podcasts: host=@person episodes=3-500 topic=science|crime|comedy|money listeners=50-90000
tenants: tenant=@person rent=200-4000 lease_months=3-72 heating=gas|solar|wood
violins: luthier=@person varnish=amber|ruby|honey appraisal=900-90000 carved=1650-1990
bridges: span=20-2000 architect=@person material=iron|stone|timber toll=1-40
robots: nickname=@title firmware=100-900 gripper=suction|claw|magnet payload=1-250
elections: candidate=@person votes=100-90000 party=Green|Liberal|Unity district=Eastlake|Westfold|Midvale
glaciers: valley=@place bedrock=granite|shale|gneiss thickness=20-900 retreat=1-90 surveyed=1920-2023
zoos: mammal=lemur|tapir|otter|bison enclosure=@title births=1-40 feed_cost=20-900
""",
}

_JOINS: dict[Split, str] = {
    "train": """
singers concerts singer_id
companies products company_id
teams players team_id
painters paintings painter_id
schools teachers school_id
airports flights airport_id
hotels orders hotel_id
banks loans bank_id
""",
    "tuning": """
theatres webinars stage_no
orchards parcels plot_no
""",
    "held_out": """
museums violins museum_ref
vineyards bakeries estate_ref
podcasts elections show_ref
""",
}

# A label's pool is the split's own, so that no name of a held-out row was seen in training.
_POOLS: dict[Split, dict[str, str]] = {
    "train": {
        "person": "Mara Jonas Tariq Elena Oscar Priya Hugo Nadia Felix Greta Ivan Leila Boris Clara "
        "Diego Emma Farid Helen Igor Julia Kofi Laura Marco Nina Omar Paula Rosa Simon Tanya Victor",
        "place": "Alder Birchwood Cedar Dunmore Elmford Fairview Glenrock Hazel Ironton Juniper "
        "Kingsley Larkspur Maple Newport Oakridge Pinecrest Redhill Salem Thornton Weston",
        "title": "Aurora Beacon Comet Dynamo Ember Falcon Galaxy Horizon Indigo Jupiter Karma Legend "
        "Meteor Nimbus Oasis Phoenix Quartz Rocket Summit Tempest Vortex Zenith",
        "firm": "Acme Brightway Corelink Dataworks Evergreen Fastline Goldleaf Homebase Intera "
        "Jetstream Keystone Lifeline Metrix Nextera Openway Primeco Quickset Rivertech",
    },
    "tuning": {
        "person": "Anselm Beatrix Cedric Dagny Edwin Freya Gideon Hester Isolde Jasper Kirsten "
        "Lionel Mabel Nestor Odette Percy Quentin Rowena",
        "place": "Ashby Brinton Corley Denholm Eastwick Farnley Gosford Hartwell Inverness Kelso "
        "Lowick Melrose Norham Otley Penrith Ripley",
        "title": "Badger Condor Drifter Encore Fjord Gallop Harvest Impala Jubilee Krypton Lantern "
        "Monarch Nomad Orbit Pioneer Rambler",
        "firm": "Ardent Bluefin Cobalt Drayton Elixir Foxglove Granite Helix Isotope Jasmine "
        "Kelvin Lattice Mosaic Nucleus Oxford Prism",
    },
    "held_out": {
        "person": "Agnes Bruno Cosima Dmitri Esther Fergus Gloria Hamza Ingrid Joaquin Katya Lorenz "
        "Miriam Nikolai Ophelia Pablo Renata Soren Thea Ursula Viggo Wanda",
        "place": "Arbor Bramble Crofton Dovedale Eskdale Fenwick Grindle Helmsley Islay Kendal "
        "Lorton Matlock Nunton Orwell Pickering Rydal",
        "title": "Atlas Bolt Cricket Doodle Echo Fidget Gizmo Hopper Iris Jolly Kipper Loop Marble "
        "Nugget Otto Pebble",
        "firm": "Astrion Boreal Cirrus Dorado Equinox Fluxor Gyrotek Hexaline Ionix Javelin "
        "Kosmos Lunaris Magnetar Novalux Orbital Pulsar",
    },
}


def _column(text: str, split: Split) -> Column:
    name, kind = text.split("=")
    if kind.startswith("@"):
        return Column(name, values=tuple(_POOLS[split][kind[1:]].split()), unique=True)
    if kind[0].isdigit():
        low, high = kind.split("-")
        return Column(name, int(low), int(high))
    return Column(name, values=tuple(kind.split("|")))


def _columns(text: str, split: Split) -> tuple[Column, ...]:
    """The columns of one line; a space inside a category belongs to its value."""
    parts: list[str] = []
    for word in text.split():
        if "=" in word:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return tuple(_column(part, split) for part in parts)


@cache
def vocabulary(split: Split) -> Vocabulary:
    """The tables and joins of a split; the same for every seed."""
    tables = {}
    for line in _TABLES[split].strip().splitlines():
        name, columns = line.split(":", 1)
        tables[name] = Table(name, _columns(columns, split))
    joins = [line.split() for line in _JOINS[split].strip().splitlines()]
    return Vocabulary(
        tuple(tables.values()),
        tuple((tables[parent], tables[child], key) for parent, child, key in joins),
    )
