"""Full fine-tuning: the baseline that the others are held against."""

from ftlab.methods.spec import Look, MethodSpec, Paper

FULL = MethodSpec(
    id="full",
    label="Full fine-tuning",
    short_label="Full",
    family="full",
    summary="Every weight learns: the baseline the others are held against.",
    paper=Paper(
        "Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification",
        "https://arxiv.org/abs/1801.06146",
    ),
    look=Look(colour="#707b8c", marker="square", dash="solid"),
    learning_rate=3e-4,
)
