"""Labels with who or what gave each, when, and how sure."""

from penstock.labels.outcome import Outcome

__all__ = ["Outcome"]
