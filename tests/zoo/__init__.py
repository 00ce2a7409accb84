"""The zoo: real classes of transformers with small random configurations, and two real models, by name."""

from tests.zoo.case import Architecture
from tests.zoo.decoders import DENSE, EXPERTS, RECURRENT
from tests.zoo.others import ENCODERS, SEQ2SEQ, SOUND, VISION
from tests.zoo.real import REAL
from tests.zoo.refused import COUPLED

ZOO: dict[str, Architecture] = {
    row.name: row
    for rows in (DENSE, EXPERTS, RECURRENT, ENCODERS, SEQ2SEQ, VISION, SOUND)
    for row in rows
}
#: one or two of each family, for what takes too long to do for all
CHOSEN = (
    "llama", "qwen3", "gemma3", "gpt2", "mixtral", "qwen3_moe", "bert", "t5", "vit", "resnet", "convnext", "mamba",
)  # fmt: skip
#: with trained weights: minutes of compiling
PRETRAINED: dict[str, Architecture] = {row.name: row for row in REAL}
#: models whose samples depend on each other: each must be refused, for that reason
REFUSED: dict[str, Architecture] = {row.name: row for row in COUPLED}
