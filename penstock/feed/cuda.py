"""Batches onto a GPU before they are asked for, over a stream of their own.

The copy of the next batch runs beside the kernels of this one; the training loop's stream waits for
an event on the device, and its thread for nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

_STREAMS = threading.local()


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A batch whose copy to the device was begun."""

    batch: dict[str, Any]
    event: Any
    torch: Any

    def received(self) -> dict[str, Any]:
        """The batch, for use on the caller's current stream."""
        stream = self.torch.cuda.current_stream()
        stream.wait_event(self.event)
        for tensor in self.batch.values():
            if self.torch.is_tensor(tensor) and tensor.is_cuda:
                # Its memory belongs to the copying stream's pool; it is in use here now.
                tensor.record_stream(stream)
        return self.batch


def received(batch: Any) -> Any:
    """A batch as the caller gets it, wherever it is."""
    return batch.received() if isinstance(batch, OnDevice) else batch


def begun(torch: Any, batch: dict[str, Any], device: Any) -> OnDevice:
    """Begin to copy page-locked tensors to a device."""
    streams = _STREAMS.__dict__
    stream = streams.setdefault(str(device), None) or torch.cuda.Stream(device)
    streams[str(device)] = stream
    with torch.cuda.stream(stream):
        moved = {
            name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }
        event = torch.cuda.Event()
        event.record(stream)
    return OnDevice(moved, event, torch)
