"""The zoo: real classes of transformers with small random configurations, by name."""

from tests.zoo.case import Architecture
from tests.zoo.decoders import DENSE, EXPERTS, RECURRENT
from tests.zoo.others import ENCODERS, SEQ2SEQ, SOUND, VISION

ZOO: dict[str, Architecture] = {
    row.name: row
    for rows in (DENSE, EXPERTS, RECURRENT, ENCODERS, SEQ2SEQ, VISION, SOUND)
    for row in rows
}
