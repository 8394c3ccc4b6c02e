"""LoRA and related methods: a low-rank product B·A beside each frozen linear layer.

Each parameter count follows the layer of PEFT 0.21, with the source named; o and i are the outputs
and inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftlab.methods.spec import (
    Hyperparameter,
    LayerCount,
    LayerLimit,
    Look,
    LoopHooks,
    MethodSpec,
    OwnOptimizer,
    PeftTraits,
    ProbePlan,
    RunPlan,
    Values,
    arxiv,
    real,
    whole,
)
from ftlab.methods.targets import LAYERS, layer_config, needs_layers, target_modules

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor
    from torch.optim import Optimizer

RANK = Hyperparameter(
    "r", "Rank r", "int", 8, "Width of B and A; parameters and file size grow with it.", 1, 512
)
ALPHA = Hyperparameter("alpha", "Alpha", "int", 16, "The adapter is scaled by alpha / r.", 1, 1024)
DROPOUT = Hyperparameter(
    "dropout", "Dropout", "float", 0.0, "Share of inputs to B·A dropped in training.", 0, 0.9
)

RANK_OF_WEIGHT = LayerLimit("rank", min, "the full rank", ("r",))
"""At rank min(inputs, outputs), B·A can be any matrix; PiSSA has no more singular vectors, and
RandLoRA no wider products."""

RANK_BY_LAYER = replace(RANK_OF_WEIGHT, by_layer=True)
"""For methods whose configuration has a `rank_pattern` and an `alpha_pattern`."""

LORA_COUNT = LayerCount(lambda o, i, values: int(values["r"]) * (o + i))
"""r(o + i): A and B (Hu et al. 2021, section 4.1; `LoraLayer.update_layer`)."""


def _lora_config(**options: Any) -> Callable[[Values, RunPlan], PeftConfig]:
    """A factory for PEFT's `LoraConfig` with these options."""
    usual: dict[str, Any] = {
        "r": whole("r"), "lora_alpha": whole("alpha"), "lora_dropout": real("dropout")
    }  # fmt: skip
    return layer_config("LoraConfig", **(usual | options))


LORA = MethodSpec(
    id="lora",
    label="LoRA",
    family="low rank",
    summary="Adds a product B·A of rank r beside each frozen linear layer, and trains only that.",
    good_for=(
        "The first choice: about the score of full fine-tuning here at half the memory, and "
        "every tool loads it."
    ),
    weak_at=(
        "Changes that need more capacity than its rank holds; then raise the rank, or train "
        "every weight."
    ),
    paper=arxiv("2106.09685", "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models"),
    look=Look(colour="#2777e0", marker="circle", dash="solid"),
    learning_rate=2e-3,
    not_sharded="",
    hyperparameters=(RANK, ALPHA, DROPOUT, LAYERS),
    peft_config=_lora_config(),
    applies=needs_layers,
    limit=RANK_BY_LAYER,
    reaches_experts=True,
    count=LORA_COUNT,
    size="r",
    in_proportion=("alpha",),
    peft_traits=PeftTraits("LORA"),
)

RSLORA = replace(
    LORA,
    id="rslora",
    label="rsLoRA",
    summary="LoRA scaled by alpha / √r, so that a higher rank does not learn more slowly.",
    good_for="High ranks: its scale keeps the learning from slowing down as the rank grows.",
    weak_at="Low ranks, where it is LoRA with another scale.",
    paper=arxiv(
        "2312.03732",
        "Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
    ),
    look=Look(colour="#5d69ad", marker="circle-open", dash="dash"),
    learning_rate=1e-3,
    peft_config=_lora_config(use_rslora=True),
    in_proportion=(),
    peft_traits=PeftTraits("LORA", feature="use_rslora"),
)

DORA = replace(
    LORA,
    id="dora",
    label="DoRA",
    summary="LoRA for each weight's direction, and a separately trained length for each row.",
    good_for="Low ranks, where LoRA falls short of full fine-tuning according to its paper.",
    weak_at=(
        "Time and memory: it took more of both than LoRA here, and no gain over a tuned LoRA was "
        "shown."
    ),
    paper=arxiv("2402.09353", "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation"),
    look=Look(colour="#6c6ff3", marker="star", dash="solid"),
    peft_config=_lora_config(use_dora=True),
    reaches_experts=False,
    # LoRA's count plus a magnitude for each of o rows (Liu et al. 2024, eq. 5; `DoraLinearLayer`)
    count=LayerCount(lambda o, i, values: int(values["r"]) * (o + i) + o),
    peft_traits=PeftTraits("LORA", feature="use_dora"),
)

PISSA = replace(
    LORA,
    id="pissa",
    label="PiSSA",
    summary="LoRA that starts from each weight's largest singular directions instead of zero.",
    good_for="Runs of few steps: it starts from the directions that matter most in each weight.",
    weak_at=(
        "Bases in 4 or 8 bits, and small files: to fit the unchanged base, it is saved at twice "
        "the rank."
    ),
    paper=arxiv(
        "2404.02948",
        "Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation",
    ),
    look=Look(colour="#279abe", marker="pentagon", dash="dot"),
    learning_rate=3.3e-4,
    not_sharded="it starts from a decomposition of whole weights",
    hyperparameters=(RANK, replace(ALPHA, default=8), DROPOUT, LAYERS),
    peft_config=_lora_config(init_lora_weights="pissa_niter_16"),
    reaches_experts=False,
    peft_traits=PeftTraits("LORA", start="pissa"),
    probe=ProbePlan(
        same_logits=1e-3,  # the weights were decomposed and recombined
        note="Saved as plain LoRA of twice the rank, it goes with the unchanged base.",
    ),
)


def _lora_plus_optimizer(
    model: Any, optimizer_class: Any, options: dict[str, Any], values: Values
) -> Optimizer:
    from peft.optimizers import create_loraplus_optimizer

    return create_loraplus_optimizer(
        model, optimizer_class, loraplus_lr_ratio=float(values["ratio"]), **options
    )


_LORA_PLUS_SCRIPT = """
    def create_optimizer(self, model=None):
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
        settings["weight_decay"] = self.args.weight_decay
        self.optimizer = create_loraplus_optimizer(
            self.model, kind, loraplus_lr_ratio={ratio}, **settings
        )
        return self.optimizer
"""

LORA_PLUS = replace(
    LORA,
    id="lora_plus",
    label="LoRA+",
    summary="LoRA with a higher learning rate for B than for A.",
    good_for="Wide models, where B should learn faster than A according to its paper.",
    weak_at=(
        "Keeping what the model knew: it forgot more than LoRA here, and no gain in score was "
        "shown."
    ),
    paper=arxiv(
        "2402.12354", "Hayou et al. 2024, LoRA+: Efficient Low Rank Adaptation of Large Models"
    ),
    look=Look(colour="#306c98", marker="cross", dash="dash"),
    learning_rate=5e-4,
    hyperparameters=(
        *LORA.hyperparameters,
        Hyperparameter(
            "ratio", "B over A", "float", 8.0, "B's learning rate divided by A's.", 1, 64
        ),
    ),
    optimizer=OwnOptimizer(
        _lora_plus_optimizer,
        script_import="from peft.optimizers import create_loraplus_optimizer",
        script_method=_LORA_PLUS_SCRIPT,
    ),
    peft_traits=PeftTraits("LORA", optimizers=("lora-plus",)),
)


def _lora_fa_optimizer(
    model: Any, optimizer_class: Any, options: dict[str, Any], values: Values
) -> Optimizer:
    from peft.optimizers import create_lorafa_optimizer

    return create_lorafa_optimizer(
        model,
        r=int(values["r"]),
        lora_alpha=int(values["alpha"]),
        lr=float(options["lr"]),
        weight_decay=float(options.get("weight_decay", 0.0)),
    )


_LORA_FA_SCRIPT = """
    def create_optimizer(self, model=None):
        self.optimizer = create_lorafa_optimizer(
            self.model, r={r}, lora_alpha={alpha}, lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
        )
        return self.optimizer
"""

LORA_FA = replace(
    LORA,
    id="lora_fa",
    label="LoRA-FA",
    summary="LoRA with a frozen random A; only B is trained.",
    good_for=(
        "Long examples: with A frozen, the inputs of the layers need not be kept for its gradient."
    ),
    weak_at="The best score: it was below LoRA here and in PEFT's published table.",
    paper=arxiv(
        "2308.03303",
        "Zhang et al. 2023, LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language "
        "Models Fine-tuning",
    ),
    look=Look(colour="#6944ea", marker="triangle-up-open", dash="dot"),
    not_sharded="its optimizer multiplies whole matrices",
    hyperparameters=(RANK, ALPHA, LAYERS),
    peft_config=_lora_config(lora_dropout=0.0),
    optimizer=OwnOptimizer(
        _lora_fa_optimizer,
        script_import="from peft.optimizers import create_lorafa_optimizer",
        script_method=_LORA_FA_SCRIPT,
        replaces="adamw",
        what="AdamW in 32 bits",
    ),
    reaches_experts=False,
    # r·o: only B, since the optimizer freezes A (`create_lorafa_optimizer`)
    count=LayerCount(lambda o, i, values: int(values["r"]) * o),
    peft_traits=PeftTraits("LORA", optimizers=("lora-fa", "lorafa")),
)


def _adalora_config(values: Values, plan: RunPlan) -> PeftConfig:
    """Configures the rank budget, which falls from `init_r` to `r` during the run.

    Zhang et al. 2023, section 3.3: constant in the first part, a cubic decrease, and constant in
    the last part; here 10 %, 60 % and 30 % of the steps.
    """
    from peft import AdaLoraConfig

    warm, final = plan.steps // 10, 3 * plan.steps // 10
    return AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_r=int(values["r"]),
        init_r=max(int(values["init_r"]), int(values["r"])),
        tinit=warm,
        tfinal=final,
        deltaT=1,
        total_step=plan.steps,
        lora_alpha=int(values["alpha"]),
        lora_dropout=float(values["dropout"]),
        orth_reg_weight=float(values["orthogonality"]),
        target_modules=target_modules(values),
    )


def _after_adalora_step(model: Any, step: int, skipped: Callable[[], bool]) -> None:
    """Reallocates the ranks by gradient scores (Zhang et al. 2023, section 3.2).

    Ignores skipped steps until the final phase: their infinite gradients would stay in the scores.
    """
    tuner = model.base_model
    config = tuner.peft_config[tuner.trainable_adapter_name]
    if step < config.total_step - config.tfinal and skipped():
        return
    tuner.update_and_allocate(step)


def _orthogonality(model: Any) -> Tensor | None:
    """The orthogonality loss: the mean over the matrices A and B of ||A Aᵀ - I|| and ||Bᵀ B - I||,
    times its weight (Zhang et al. 2023, equation 4).

    PEFT adds it only if the model itself computes the loss.
    """
    import torch

    tuner = model.base_model
    weight = float(tuner.peft_config[tuner.trainable_adapter_name].orth_reg_weight)
    if weight == 0:
        return None
    terms = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name:
            product = matrix @ matrix.T
        elif "lora_B" in name:
            product = matrix.T @ matrix
        else:
            continue
        identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
        terms.append(torch.linalg.matrix_norm(product - identity))
    return weight * torch.stack(terms).mean()


_ORTHOGONALITY_SCRIPT = """\
 + orthogonality(model) / ACCUMULATION


def orthogonality(model):
    \"\"\"AdaLoRA's own term (Zhang et al. 2023, equation 4), not in the printed loss.\"\"\"
    terms = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
            terms.append(torch.linalg.matrix_norm(product - identity))
    weight = PEFT_CONFIG.get("orth_reg_weight", 0.5)  # PEFT's default
    return weight * torch.stack(terms).mean()
"""


def _script_orthogonality(config: Mapping[str, Any]) -> str:
    """`config` contains only values that differ from PEFT's defaults."""
    return "" if config.get("orth_reg_weight") == 0 else _ORTHOGONALITY_SCRIPT


_AFTER_ADALORA_STEP_SCRIPT = """
    def on_optimizer_step(self, args, state, control, **_):
        model.base_model.update_and_allocate(state.global_step + 1)
"""

ADALORA = replace(
    LORA,
    id="adalora",
    label="AdaLoRA",
    summary="LoRA that moves rank to the layers that need it during training.",
    good_for=(
        "A fixed number of ranks that should go to the layers that need them; it forgot little "
        "here."
    ),
    weak_at=(
        "Short runs: it needs steps to distribute the ranks, and scored below LoRA here and in "
        "PEFT's published table."
    ),
    paper=arxiv(
        "2303.10512",
        "Zhang et al. 2023, Adaptive Budget Allocation for Parameter-Efficient "
        "Fine-Tuning",
    ),
    look=Look(colour="#3b96de", marker="hexagon", dash="dashdot"),
    learning_rate=1.5e-2,
    not_sharded="it ranks the gradients of whole matrices",
    hyperparameters=(
        replace(RANK, help="Mean rank of a layer at the end."),
        Hyperparameter("init_r", "First rank", "int", 12, "Initial rank of all layers.", 1, 512),
        replace(ALPHA, default=16),
        DROPOUT,
        Hyperparameter(
            "orthogonality", "Orthogonality", "float", 0.1,
            "Weight of the loss that keeps the directions orthogonal.", 0, 10,
        ),
        LAYERS,
    ),
    peft_config=_adalora_config,
    hooks=LoopHooks(
        _orthogonality, _after_adalora_step, _script_orthogonality, _AFTER_ADALORA_STEP_SCRIPT
    ),
    limit=replace(RANK_OF_WEIGHT, names=("init_r", "r")),
    reaches_experts=False,
    # R(o + i + 1) with the initial rank R: P, Q and the diagonal Λ (Zhang et al. 2023, eq. 3;
    # `AdaLoraLayer.update_layer`). Pruned ranks stay as zeros, so the count does not fall.
    count=LayerCount(
        lambda o, i, values: max(int(values["init_r"]), int(values["r"])) * (o + i + 1)
    ),
    size="init_r",
    in_proportion=("r", "alpha"),
    peft_traits=PeftTraits("ADALORA"),
)  # fmt: skip

METHODS = (LORA, RSLORA, DORA, PISSA, LORA_PLUS, LORA_FA, ADALORA)
