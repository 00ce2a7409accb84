"""The user's source line of an eager op, for error messages."""

import linecache
import sys
from pathlib import Path
from types import FrameType

import torch

from bi_inductor.errors import Where

_LIBRARIES = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent.parent),
    "<eval_with_key>",  # graphs that torch generated
)


def user_frame() -> Where:
    """Return the innermost frame that belongs to neither torch nor this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    if frame is None:
        return Where()
    file, line = frame.f_code.co_filename, frame.f_lineno
    return Where(line=f"{file}:{line}", code=linecache.getline(file, line).strip())
