"""Where a training job is in its data: a small dict, the same on every rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from penstock.errors import StateError

_MUST_MATCH = ("dataset", "split", "samples", "shuffle", "global_batch", "limit")


@dataclass(frozen=True, slots=True)
class State:
    """The next step to be given out, and what its meaning depends on."""

    dataset: str
    """Fingerprint."""
    split: str
    samples: str
    """What a sample is: a row, a filtered row, a window, a packed sequence."""
    shuffle: str
    global_batch: int
    limit: int | None
    epoch: int
    step: int
    worker: tuple[int, int] | None = None
    """In a worker of a DataLoader, its number and how many there are: it has every n-th step."""
    version: int = 2

    def to_dict(self) -> dict[str, Any]:
        """For `state_dict`."""
        return asdict(self)

    @classmethod
    def resumed(cls, value: dict[str, Any], here: State) -> State:
        """The state in a dict, if it belongs to the dataset and settings of `here`.

        Raises
        ------
        StateError: something that must match does not; says what.
        """
        if value.get("version", here.version) != here.version:
            raise StateError(
                f"state version {value['version']}; this Penstock reads {here.version}"
            )
        try:
            state = cls(**value)
        except TypeError as error:
            raise StateError(f"not a state of a Penstock dataset: {error}") from error
        for name in _MUST_MATCH:
            before, now = getattr(state, name), getattr(here, name)
            if before != now:
                raise StateError(
                    f"the state was taken with {name} = {before}, and this loader has {now}; "
                    "to continue the same run, load the same version with the same settings"
                )
        return state
