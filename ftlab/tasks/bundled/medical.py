"""The medical task: summarises a short synthetic clinical note in one line, in house style.

58F, tight chest x3d. BP 150/90; normal heart sounds. Imp: angina. Rx aspirin 75 mg OD. FU 2w.
"""

from __future__ import annotations

from ftlab.tasks.spec import ROUGE_L, TaskSpec

TASK = TaskSpec(
    id="medical",
    label="Medical summary",
    summary="A synthetic clinical note in, a one-line summary in house style out; ROUGE-L.",
    metric=ROUGE_L,
    max_new_tokens=96,
    sha256="78301affe66018421ff8dd7a4ea9c5c06a8f193db6f40116bcd6bfcecf679313",
    place=3,
)
