"""Labels, each with who or what gave it, when, and how sure.

outcome.py    labels that time gives: what comes to pass in the window that follows
label_set.py  labels that people, models, rules or functions gave
"""

from penstock.labels.label_set import LabelSet
from penstock.labels.outcome import LABEL, Outcome

__all__ = ["LABEL", "LabelSet", "Outcome"]
