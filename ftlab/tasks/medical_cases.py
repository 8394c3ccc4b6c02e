# ruff: noqa: E501 - a line of the tables below is one record
"""Conditions of the medical task, in three sets that share no complaint, finding or drug.

One line a condition: name; complaints; examination findings; drugs with a dose. All made up for
practice in writing: nothing here is advice on treatment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ftlab.tasks.splits import Split

_CASES: dict[Split, str] = {
    "train": """
pneumonia; productive cough, fever and chills; crackles at the left base; amoxicillin 500 mg, doxycycline 100 mg
asthma; wheezing, breathlessness at night; expiratory wheeze; salbutamol 200 mcg, budesonide 400 mcg
angina; chest pain on exertion, tight chest; normal heart sounds; aspirin 75 mg, bisoprolol 5 mg
migraine; throbbing headache, flashing lights; no neck stiffness; sumatriptan 50 mg, propranolol 40 mg
gout; swollen big toe, painful toe joint; hot red toe joint; colchicine 500 mcg, naproxen 250 mg
cystitis; burning urine, frequent urination; suprapubic tenderness; nitrofurantoin 100 mg, trimethoprim 200 mg
tonsillitis; sore throat, painful swallowing; enlarged red tonsils; phenoxymethylpenicillin 500 mg
gastritis; burning stomach pain, nausea after meals; epigastric tenderness; omeprazole 20 mg, famotidine 40 mg
eczema; itchy elbows, dry itchy skin; red scaly patches; hydrocortisone 1 mg, cetirizine 10 mg
hypothyroidism; weight gain, constant tiredness; slow reflexes; levothyroxine 50 mcg
diabetes; constant thirst, passing much urine; dry tongue; metformin 500 mg, gliclazide 40 mg
heart failure; swollen ankles, breathlessness lying flat; ankle oedema; furosemide 40 mg, ramipril 2.5 mg
atrial fibrillation; palpitations, irregular heartbeat; irregular pulse; apixaban 5 mg, digoxin 125 mcg
anaemia; pale skin, lightheadedness; pale conjunctivae; ferrous sulfate 200 mg
sciatica; shooting leg pain, low back pain; positive straight leg raise; ibuprofen 400 mg, amitriptyline 10 mg
depression; low mood, poor sleep; flat affect; sertraline 50 mg, citalopram 20 mg
conjunctivitis; sticky eyes, gritty eyes; red conjunctiva; chloramphenicol 5 mg
scabies; itching at night, rash between fingers; burrows between fingers; ivermectin 12 mg
hay fever; sneezing, runny nose; swollen nasal lining; loratadine 10 mg, fexofenadine 120 mg
vertigo; spinning sensation, unsteady walking; horizontal nystagmus; betahistine 16 mg, cinnarizine 15 mg
osteoarthritis; stiff knees, knee pain on stairs; crepitus of both knees; paracetamol 1 g, celecoxib 100 mg
epilepsy; blackout with jerking, brief staring spells; bitten tongue; lamotrigine 25 mg, levetiracetam 250 mg
cellulitis; red swollen shin, spreading redness; warm tender shin; flucloxacillin 500 mg, clindamycin 300 mg
constipation; hard stools, straining at stool; loaded colon; macrogol 13 g, senna 15 mg
hypertension; morning headaches, nosebleeds; narrowed retinal arteries; amlodipine 5 mg, losartan 50 mg
malaria; shaking chills, fever after travel; enlarged spleen; quinine 600 mg
glaucoma; blurred vision, halos around lights; raised eye pressure; timolol 5 mg, acetazolamide 250 mg
anxiety; racing thoughts, trembling hands; fine tremor; buspirone 5 mg, hydroxyzine 25 mg
""",
    "tuning": """
shingles; painful band of blisters, burning side pain; vesicles along one rib; aciclovir 800 mg
plantar fasciitis; heel pain, pain with first steps; tender heel pad; diclofenac 50 mg
rosacea; flushed cheeks, facial stinging; facial pustules; metronidazole 200 mg
oral thrush; sore mouth, altered taste; white plaques on the tongue; fluconazole 50 mg
carpal tunnel; tingling thumb, numb fingers; positive Tinel sign; prednisolone 20 mg
insomnia; early waking, unrefreshing sleep; dark eye circles; melatonin 2 mg
""",
    "held_out": """
sinusitis; facial pressure, blocked nose; tender cheekbones; clarithromycin 250 mg, mometasone 50 mcg
kidney stone; flank pain, blood in urine; tender right flank; tamsulosin 400 mcg, ketorolac 10 mg
bronchitis; hacking cough, yellow phlegm; scattered rhonchi; azithromycin 250 mg, guaifenesin 200 mg
psoriasis; silvery plaques, flaking scalp; pitted nails; methotrexate 10 mg, calcipotriol 50 mcg
ear infection; earache, muffled hearing; bulging eardrum; cefalexin 500 mg, co-amoxiclav 625 mg
diverticulitis; left lower belly pain, cramps with bloating; guarding of the left abdomen; ciprofloxacin 500 mg
Parkinson disease; shuffling gait, stiff arms; cogwheel rigidity; levodopa 100 mg, ropinirole 1 mg
bursitis; aching hip, pain when lying on the side; tender outer hip; meloxicam 15 mg, etoricoxib 60 mg
hives; raised itchy welts, swollen lips; blanching wheals; desloratadine 5 mg, montelukast 10 mg
""",
}


@dataclass(frozen=True)
class Case:
    """A condition with the values a note about it can hold; a drug is "name dose unit"."""

    condition: str
    complaints: tuple[str, ...]
    findings: tuple[str, ...]
    drugs: tuple[str, ...]


@cache
def cases(split: Split) -> tuple[Case, ...]:
    """The split's own conditions."""
    rows = [line.split("; ") for line in _CASES[split].strip().splitlines()]
    return tuple(Case(row[0], *(tuple(cell.split(", ")) for cell in row[1:])) for row in rows)
