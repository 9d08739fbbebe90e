"""Where a training job is in its data: a small dict, the same on every rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
    worker: tuple[int, int, int] | None = None
    """In a worker of a DataLoader, which has every n-th step: its number, how many there are, and
    the turns that they had had before the epoch's first step."""
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
        if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(f"not a state of a Penstock dataset: a {type(value).__name__}")
        if value.get("version", here.version) != here.version:
            raise StateError(
                f"state version {value['version']}; this Penstock reads {here.version}"
            )
        try:
            state = cls(**value)
            worker = None
            if state.worker is not None:
                rank, size, turns = state.worker
                worker = (int(rank), int(size), int(turns))
            if state.epoch < 0 or state.step < 0:
                raise ValueError(f"epoch {state.epoch}, step {state.step}")
        except (TypeError, ValueError) as error:
            raise StateError(f"not a state of a Penstock dataset: {error}") from error
        state = replace(state, worker=worker)
        for name in _MUST_MATCH:
            before, now = getattr(state, name), getattr(here, name)
            if before != now:
                raise StateError(
                    f"the state was taken with {name} = {before}, and this loader has {now}; "
                    "to continue the same run, load the same version with the same settings"
                )
        return state
