"""Graph tests need no device: make the harness importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
