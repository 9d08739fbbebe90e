"""Which rank of how many this process is."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from penstock.errors import OrderError


@dataclass(frozen=True, slots=True)
class World:
    """One process among those that train together."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise OrderError(f"rank {self.rank} is not one of {self.size}")

    def first_step(self, step: int, turns: int, *, is_own: bool = False) -> int:
        """Of steps from `step` on, dealt to a DataLoader's workers in turn, this worker's first.

        Parameters
        ----------
        turns: how many the workers had had when the epoch's step 0 was, or would have been, dealt.
        is_own: whether `step` is from this worker's own state, which is one past its last step.
        """
        if step and self.size > 1 and is_own:
            return step - 1 + self.size
        return step + (self.rank - turns - step) % self.size

    @property
    def place(self) -> tuple[int, int]:
        """The rank and the size."""
        return self.rank, self.size

    def replicated(self, times: int) -> World:
        """As the data sees it when each group of `times` neighbouring ranks gets the same.

        Raises
        ------
        OrderError: the ranks don't divide into such groups.
        """
        if times < 1 or self.size % times:
            raise OrderError(f"{self.size} ranks don't divide into groups of {times} that share")
        return World(self.rank // times, self.size // times)


_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, DeepSpeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


def is_distributed() -> bool:
    """Whether this process has joined a process group of torch's."""
    distributed = sys.modules.get("torch.distributed")
    return bool(
        distributed is not None and distributed.is_available() and distributed.is_initialized()
    )


def is_in_dataloader() -> bool:
    """Whether this process is a worker of a torch DataLoader."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def current_world() -> World:
    """From torch.distributed if it is initialised, else the launcher's environment, else JAX's
    distributed runtime, else SLURM's tasks, else alone.

    Nothing is imported: what is in use is loaded already.
    """
    if is_distributed():
        distributed = sys.modules["torch.distributed"]
        return World(distributed.get_rank(), distributed.get_world_size())
    for rank, size in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            try:
                return World(int(os.environ[rank]), int(os.environ[size]))
            except ValueError as error:
                raise OrderError(
                    f"{rank}={os.environ[rank]} and {size}={os.environ[size]} are no numbers; "
                    "unset them, or say .shard(rank, world_size)"
                ) from error
    jax = sys.modules.get("jax")
    if jax is not None and getattr(jax, "distributed", None) is not None:
        is_initialized = getattr(jax.distributed, "is_initialized", None)
        if is_initialized is not None and is_initialized():
            return World(jax.process_index(), jax.process_count())
    # srun gives a job step's processes their number; a shell inside an allocation has none.
    if "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ:
        return World(int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_NTASKS", "1")))
    return World()


def dataloader_worker() -> World:
    """Which worker of a torch DataLoader this process is; alone outside one."""
    data = sys.modules.get("torch.utils.data")
    info = data.get_worker_info() if data is not None else None
    return World() if info is None else World(info.id, info.num_workers)
