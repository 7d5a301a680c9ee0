"""A table of prompts in, a table of images out."""

from __future__ import annotations

__version__ = "0.1.0"
