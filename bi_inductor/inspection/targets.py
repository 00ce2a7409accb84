"""TARGET of the command line: ``package.module:factory``, a Hugging Face folder, or a GGUF file."""

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bi_inductor.errors import InspectionError

#: tokens of an example prompt for a model that comes without inputs
TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model and one example call of it."""

    name: str
    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def load_target(
    text: str, *, dtype: torch.dtype | None = None, device: str | None = None, weights: bool = True
) -> Target:
    """Make the model and inputs that ``text`` names.

    Args:
        text: ``package.module:factory`` (called without arguments, returns ``(model, args)`` or
            ``(model, args, kwargs)``), a folder with a ``config.json``, or a ``.gguf`` file.
        dtype: floating dtype of the model and its inputs; default as they come.
        device: where to put them; default as they come.
        weights: False makes the models of folders and files on the meta device, without reading weights.

    Raises:
        InspectionError: one sentence about what is wrong with the target.
    """
    if text.endswith(".gguf") or Path(text).is_dir():
        target = _pretrained(Path(text), dtype, weights)
    elif ":" in text:
        target = _factory(text)
    else:
        raise InspectionError(_not_found(text))
    return _moved(target, dtype, device)


def _not_found(text: str) -> str:
    ways = "a target is package.module:factory, a Hugging Face folder, or a .gguf file"
    return f"there is no folder {text!r}; {ways}"


def _factory(text: str) -> Target:
    module, _, name = text.partition(":")
    factory = _imported(module, name)
    try:
        made = factory()
    except Exception as error:
        raise InspectionError(f"{text}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InspectionError(
            f"{text}() must return (model, args) or (model, args, kwargs), got {type(made).__name__}"
        )
    model, args, kwargs = made if len(made) == 3 else (*made, {})
    args = args if isinstance(args, (tuple, list)) else (args,)
    if not callable(model) or not isinstance(kwargs, dict):
        raise InspectionError(
            f"{text}() must return a model that can be called, a tuple of inputs and a dict of inputs"
        )
    return Target(name=text, model=model, args=tuple(args), kwargs=dict(kwargs))


def _imported(module: str, name: str) -> Any:
    with _current_folder_on_path():
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            raise InspectionError(f"cannot import {module!r}: {error}") from error
        except AttributeError as error:
            raise InspectionError(f"module {module!r} has no {name!r}") from error
        except Exception as error:
            raise InspectionError(
                f"importing {module!r} failed: {type(error).__name__}: {error}"
            ) from error
    if not callable(found):
        raise InspectionError(f"{module}:{name} is no function, but {type(found).__name__}")
    return found


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """A console script does not have the current folder on its path, and ``python -m`` has."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def _pretrained(path: Path, dtype: torch.dtype | None, weights: bool) -> Target:
    """A causal language model, or whatever the folder's config says that it is."""
    if not path.exists():
        raise InspectionError(f"there is no file {str(path)!r}")
    is_gguf = path.suffix == ".gguf"
    if not is_gguf and not (path / "config.json").is_file():
        raise InspectionError(f"{path} has no config.json, so it is no Hugging Face model folder")
    try:
        import transformers
    except ImportError as error:
        raise InspectionError(
            f"reading {path} needs transformers: pip install transformers"
        ) from error
    folder, extra = (path.parent, {"gguf_file": path.name}) if is_gguf else (path, {})
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **extra)
        kind = _class_of(transformers, config)
        if weights:
            model = kind.from_pretrained(folder, dtype=dtype or "auto", **extra)
        else:
            with torch.device("meta"):
                model = _from_config(kind, config)
    except (OSError, ValueError, ImportError, KeyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InspectionError(f"cannot load {path}: {said[0]}") from error
    args, kwargs = _example(model, config)
    return Target(name=path.name, model=model.eval(), args=args, kwargs=kwargs)


def _class_of(transformers: Any, config: Any) -> Any:
    # the config of a GGUF file names no class
    named = (getattr(config, "architectures", None) or [""])[0]
    return getattr(transformers, named, None) or transformers.AutoModelForCausalLM


def _from_config(kind: Any, config: Any) -> Any:
    return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


def _example(model: Any, config: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two samples of what the model's main input is."""
    device = next(model.parameters()).device
    main = getattr(model, "main_input_name", "input_ids")
    if main == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = getattr(config, "num_channels", 3)
        dtype = next(model.parameters()).dtype
        return (), {main: torch.zeros(2, channels, height, width, device=device, dtype=dtype)}
    if main != "input_ids":
        raise InspectionError(
            f"{type(model).__name__} takes {main!r}, for which no example can be made; "
            "write a factory that returns (model, args, kwargs)"
        )
    ids = (
        torch.arange(2 * TOKENS, device=device).reshape(2, TOKENS)
        % config.get_text_config().vocab_size
    )
    given: dict[str, Any] = {main: ids}
    if "attention_mask" in inspect.signature(model.forward).parameters:
        given["attention_mask"] = torch.ones_like(ids)
    if getattr(config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids[:, :4]
    if getattr(config, "use_cache", None) is not None:
        given["use_cache"] = False
    return (), given


def _moved(target: Target, dtype: torch.dtype | None, device: str | None) -> Target:
    if dtype is None and device is None:
        return target

    def move(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        wanted = dtype if dtype is not None and x.is_floating_point() else None
        return x.to(device=device, dtype=wanted)

    _check_device(device)
    if isinstance(target.model, torch.nn.Module):
        target.model.to(device=device, dtype=dtype)
    return Target(
        name=target.name,
        model=target.model,
        args=pytree.tree_map(move, target.args),
        kwargs=pytree.tree_map(move, target.kwargs),
    )


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:
        here = "cpu"
        if torch.accelerator.is_available():
            here += f" and {torch.accelerator.current_accelerator()}"
        raise InspectionError(
            f"there is no device {device!r} here to run the model on, only {here}; "
            "`bi-inductor explain` plans for devices that are not present"
        ) from error
