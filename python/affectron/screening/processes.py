"""Several processes that screen one corpus: who reads which shards, and how the shards come together.

The processes meet before the first shard and after the last: in between a slow or lost one holds up no other. All that
is exchanged are host arrays, over gloo; a model spread over GPUs brings NCCL groups of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from affectron.errors import Incomplete, InputError
from affectron.models.parallel import is_fully_sharded, tensor_group
from affectron.screening.checkpoint import ShardFolder

# At the end the fastest process waits for the slowest, which may have a whole shard more to read.
_TIMEOUT = timedelta(days=7)


def launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def initialise() -> None:
    """Join the processes that ``torchrun`` started: gloo for host arrays, NCCL for those of GPUs."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)


def finish() -> None:
    """Wait for all processes, and part; nothing to do for one alone."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def local_device(device: str) -> str:
    """This process' own GPU where ``device`` is ``cuda``, or ``auto`` and there are GPUs; else ``device``."""
    own = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if own else device


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has started this process anew: then it goes on where the last one was."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


class Processes:
    """The processes of a screening; one alone where torch.distributed is not in use.

    Attributes:
        rank, size: as torch.distributed has them.
        replica, replicas: which copy of the model this process belongs to, and how many there are. A copy is one
            process, or the several of a tensor parallel model; each copy reads shards of its own.
        leader: whether this process writes for its copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.group: dist.ProcessGroup | None = None
        self.coupled: dist.ProcessGroup | None = None
        self.rank, self.size = 0, 1
        self.replica, self.replicas, self.leader = 0, 1, True
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Groups of our own: messages of the model's groups cannot come between.
        self.group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        tensor = tensor_group(model)
        members = self.gather([self.rank] if tensor is None else dist.get_process_group_ranks(tensor))
        copies = sorted({tuple(sorted(ranks)) for ranks in members})
        self.replicas = len(copies)
        self.replica = next(number for number, ranks in enumerate(copies) if self.rank in ranks)
        self.leader = self.rank == copies[self.replica][0]
        if is_fully_sharded(model):
            self.coupled = self.group
        elif len(copies[0]) > 1:
            groups = [dist.new_group(list(ranks), backend="gloo", timeout=_TIMEOUT) for ranks in copies]
            self.coupled = groups[self.replica]

    def step(self, busy: bool, due: bool, stop: bool) -> tuple[bool, bool, bool]:
        """What holds for any process whose forwards take part in this one's: to be asked before each of them."""
        if self.coupled is None:
            return busy, due, stop
        flags = torch.tensor([busy, due, stop], dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.coupled)
        busy, due, stop = map(bool, flags)
        return busy, due, stop

    def gather(self, value: Any) -> list[Any]:
        """Each process' ``value`` (small, plain data), in rank order.

        Raises:
            Incomplete: another process has ended.
        """
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, value, group=self.group)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise Incomplete(f"another process of the screening has ended; go on with --resume ({reason})") from error
        return found

    def agree(self, value: dict[str, Any]) -> None:
        """Check that all have the same value.

        Raises:
            InputError: they have not; the message names the field, the rank and both values.
        """
        for rank, other in enumerate(self.gather(value)):
            for key in value:
                if other.get(key) != value[key]:
                    raise InputError(
                        f"processes of one screening differ: {key} is {value[key]!r} on rank {self.rank} and "
                        f"{other.get(key)!r} on rank {rank}"
                    )

    def share(self, items: Sequence[int]) -> Sequence[int]:
        """This copy's part of the items: a run of them, as long as the others' or one longer."""
        first, last = (len(items) * (self.replica + one) // self.replicas for one in (0, 1))
        return items[first:last]

    def collect(self, folder: ShardFolder, owners: dict[int, int]) -> None:
        """Bring to rank 0's folder the shards that only another process' folder holds; nothing to do on one disk."""
        if self.group is None:
            return
        here = self.gather([shard for shard in owners if folder.file(shard).is_file()])[0]
        for shard, owner in owners.items():
            if shard in here:
                continue
            if self.rank == owner:
                data = torch.frombuffer(bytearray(folder.file(shard).read_bytes()), dtype=torch.uint8)
                dist.send(torch.tensor([len(data)]), 0, group=self.group)
                dist.send(data, 0, group=self.group)
            elif self.rank == 0:
                size = torch.zeros(1, dtype=torch.int64)
                dist.recv(size, owner, group=self.group)
                data = torch.empty(int(size), dtype=torch.uint8)
                dist.recv(data, owner, group=self.group)
                folder.receive(shard, data.numpy().tobytes())

    def broadcast(self, arrays: Iterable[np.ndarray[Any, Any]]) -> None:
        """Put rank 0's contents into the arrays, which have the same shapes everywhere."""
        if self.group is not None:
            for array in arrays:
                dist.broadcast(torch.from_numpy(array), 0, group=self.group)
