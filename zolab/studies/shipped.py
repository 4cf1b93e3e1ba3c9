"""How the shipped fine-tuners were made."""

import shutil
from dataclasses import replace
from pathlib import Path

from zolab.l2l import MetaConfig, meta_train
from zolab.pertnn import SHIPPED_FINETUNERS

GAIN = MetaConfig(
    gradient="gain",
    lr_zo=0.0,
    meta_lr=1e-3,
    outer="adam",
    momentum=0.0,
    decay=False,
    clip=0.0,
    identity=True,
    input_scaling=True,
)
SHIPPED = {
    "tiny-reviews": replace(
        GAIN,
        model="tiny-reviews",
        tasks="reviews_sentence",
        steps=120,
        period=30,
        batch_size=16,
        train=1000,
        measured=48,
        lr=3e-3,
    ),
    "smollm2-135m": replace(
        GAIN,
        meta_lr=3e-3,
        model="smollm2-135m",
        tasks="rotten_tomatoes_short",
        steps=60,
        period=30,
        train=1000,
        measured=12,
        minibatches=2,
        exact=True,
        lr=1e-4,
    ),
}


def ship(name: str, out: Path) -> None:
    """Meta-train a shipped fine-tuner in a folder, and put its network and card where `PertNN.load` finds them by name.

    Args:
        name: of `SHIPPED`.
        out: folder of the meta-training; started again in it, training goes on.
    """
    meta_train(SHIPPED[name], out)
    SHIPPED_FINETUNERS[name].mkdir(parents=True, exist_ok=True)
    for file in ("pertnn.safetensors", "card.json"):
        shutil.copyfile(out / file, SHIPPED_FINETUNERS[name] / file)
