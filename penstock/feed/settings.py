"""How a dataset is fed: the values that a Dataset's methods set."""

from __future__ import annotations

from dataclasses import dataclass, field

import xxhash

from penstock.feed.convert import Form
from penstock.feed.filtering import Expression, text_of
from penstock.feed.images import ImageOptions
from penstock.feed.order import Sequential, Shuffle
from penstock.feed.packed import PackOptions
from penstock.feed.stages import Stage
from penstock.feed.windows import WindowOptions
from penstock.feed.world import World


@dataclass(frozen=True, slots=True)
class Settings:
    """How a dataset is fed."""

    columns: tuple[str, ...]
    filter: Expression | None = None
    windows: WindowOptions | None = None
    pack: PackOptions | None = None
    images: ImageOptions | None = None
    stages: tuple[Stage, ...] = ()
    shuffle: Shuffle = field(default_factory=Sequential)
    batch: int | None = None
    """Samples a step over all ranks."""
    drop_last: bool = False
    limit: int | None = None
    epochs: int | None = 1
    """Epochs that one iteration goes through; None: without end."""
    form: Form = field(default_factory=Form)
    world: World | None = None
    """None: found when iteration begins."""
    replicas: int = 1
    """Neighbouring ranks that get the same."""
    shows_progress: bool = False

    @property
    def samples(self) -> str:
        """What a sample is, for the state: short, and the same for the same settings."""
        if self.windows is not None:
            return repr(self.windows)
        if self.pack is not None:
            return f"pack({self.pack.column}, {self.pack.seq_len})"
        if self.filter is not None:
            return f"filter({xxhash.xxh3_64_hexdigest(text_of(self.filter))})"
        return "rows"

    @property
    def makes_samples(self) -> bool:
        """Whether how many samples there are is known only from the blocks or their index."""
        return self.windows is not None or self.pack is not None or self.filter is not None
