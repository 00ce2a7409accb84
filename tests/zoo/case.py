"""What an entry of the zoo is: a class of transformers, a small random configuration, its inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

VOCAB = 128
#: tokens per sample, pixels per side, samples of sound
LENGTH, SIDE, SOUND = 9, 32, 800

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One row of the zoo.

    ``model`` and ``config`` name classes of transformers; ``inputs`` names how samples are made and handed over.
    ``load`` reads a real model instead. ``training`` leaves it in training mode. ``refused``: a pattern for the
    reason for which the model itself, not our coverage, cannot be batch-invariant. ``outside``: classes of modules
    whose Python asks the whole batch which code to run; they stay out of the graphs, and the model runs in the mode.
    ``captured``: what a mask selects, and ``.item()``, stay in the graph (settings of Dynamo, off by default).
    """

    name: str
    family: str
    model: str = ""
    config: str = ""
    inputs: str
    settings: Mapping[str, object] = field(default_factory=dict)
    load: Callable[[], nn.Module] | None = None
    training: bool = False
    outside: tuple[str, ...] = ()
    captured: bool = False
    refused: str = ""

    @property
    def any_size(self) -> bool:
        """Whether it is compiled with every size symbolic.

        Swin is provable so (``tests/graph/test_symbolic_sizes.py``), but torch traces its windows for many minutes.
        Modules outside of the graphs loop over samples and blocks, whose number is one then.
        """
        return not self.name.startswith("swin") and not self.outside

    @property
    def is_causal(self) -> bool:
        """Whether the first tokens of a sequence know nothing of the later ones."""
        return self.inputs == "tokens"

    @property
    def has_cache(self) -> bool:
        """Whether it decodes through a cache of keys and values."""
        return self.family in ("dense", "experts")


class Case(nn.Module):
    """A built model, called with samples by position: what is compiled. ``inputs`` makes ``n`` samples."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Callable[[int], Inputs],
        call: Callable[[nn.Module, Inputs], object],
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.call = model, inputs, call

    def forward(self, *x: Tensor) -> object:
        return self.call(self.model, x)


def tokens(n: int, length: int = LENGTH) -> Inputs:
    return (torch.randint(3, VOCAB, (n, length)),)


def padded_tokens(n: int, length: int = LENGTH) -> Inputs:
    """Ids and a mask; rows are padded on the left by 0 to 3 tokens."""
    (ids,) = tokens(n, length)
    mask = torch.ones_like(ids)
    for row in range(n):
        mask[row, : row % 4] = 0
    return ids, mask


def pixels(n: int) -> Inputs:
    return (torch.randn(n, 3, SIDE, SIDE),)


def sound(n: int) -> Inputs:
    return (torch.randn(n, SOUND),)


def by_ids(model: nn.Module, x: Inputs) -> object:
    return model(input_ids=x[0], use_cache=False)[0]


def by_ids_and_mask(model: nn.Module, x: Inputs) -> object:
    return model(input_ids=x[0], attention_mask=x[1])[0]


def by_first(model: nn.Module, x: Inputs) -> object:
    return model(x[0])[0]


def by_both_sides(model: nn.Module, x: Inputs) -> object:
    return model(input_ids=x[0], decoder_input_ids=x[1], use_cache=False)[0]


def by_features(model: nn.Module, x: Inputs) -> object:
    return model(input_features=x[0], decoder_input_ids=x[1], use_cache=False)[0]


def by_text_and_pixels(model: nn.Module, x: Inputs) -> object:
    out = model(input_ids=x[0], pixel_values=x[1])
    return out.text_embeds, out.image_embeds


#: name -> (n samples, the call)
INPUTS: dict[str, tuple[Callable[[int], Inputs], Callable[[nn.Module, Inputs], object]]] = {
    "tokens": (tokens, by_ids),
    "padded": (padded_tokens, by_ids_and_mask),
    # a whole number of blocks, and more of them than all attend to
    "padded_16": (lambda n: padded_tokens(n, 16), by_ids_and_mask),
    "pixels": (pixels, by_first),
    "sound": (sound, by_first),
    "both_sides": (lambda n: (*tokens(n, 7), *tokens(n, 5)), by_both_sides),
    "features": (lambda n: (torch.randn(n, 16, 40), *tokens(n, 5)), by_features),
    "text_and_pixels": (lambda n: (*tokens(n), *pixels(n)), by_text_and_pixels),
}


def _left_outside(model: nn.Module, classes: tuple[str, ...]) -> None:
    """Keep modules of these classes out of every graph."""
    found = [module for module in model.modules() if type(module).__name__ in classes]
    assert {type(module).__name__ for module in found} == set(classes)
    for module in found:
        kind = type(module)
        # a class of its own: a function on the module would keep its weights when it is copied
        outside = {"forward": torch.compiler.disable(kind.forward)}
        module.__class__ = type(kind.__name__, (kind,), outside)


def build(architecture: Architecture) -> Case:
    """The model in float32, with weights that do not depend on what was made before."""
    inputs, call = INPUTS[architecture.inputs]
    model = _model(architecture)
    if architecture.outside:
        _left_outside(model, architecture.outside)
    return Case(model, inputs, call).train(architecture.training)


def _model(architecture: Architecture) -> nn.Module:
    if architecture.load is not None:
        return architecture.load()
    import transformers

    config = getattr(transformers, architecture.config)(**architecture.settings)
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, architecture.model)(config)
    return model
