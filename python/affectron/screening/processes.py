"""Processes that screen one corpus together: their shares of the shards, and the exchange of results.

The processes wait for each other before the first shard and after the last. In between, a slow or lost process does not
hold up the others. They exchange host arrays alone, over gloo. A model that is spread over GPUs has its own NCCL
groups.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from affectron.errors import Incomplete, InputError
from affectron.models.parallel import is_fully_sharded, tensor_group
from affectron.screening.checkpoint import RESUME, ShardFolder

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# The fastest process waits at the end for the slowest, which may have one shard more to read.
_TIMEOUT = timedelta(days=7)


def launched() -> bool:
    """Tell whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def initialise() -> None:
    """Join the processes that ``torchrun`` started: gloo for host arrays, NCCL for those of GPUs.

    Raises:
        InputError: the processes cannot connect.
    """
    # Absent where torch is built without torch.distributed.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    store.set_timeout(_TIMEOUT)
    start = PrefixStore(_common_start(store, rank, size), store)
    try:
        dist.init_process_group(backend, store=start, rank=rank, world_size=size, timeout=_TIMEOUT)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "not set")
        raise InputError(
            f"the processes cannot connect ({reason}): GLOO_SOCKET_IFNAME is {interface}, expected the network "
            "interface by which the nodes reach each other"
        ) from error


def _common_start(store: Store, rank: int, size: int) -> str:
    """Agree on a name for this start of the processes, which no earlier start has.

    torchrun keeps the store when it restarts processes, and with it the addresses of the processes that have ended. The
    number of restarts does not tell the starts apart: each node counts its own. So rank 0 offers a new name, and the
    others answer with a name of their own, until rank 0 has listed it.
    """
    own = uuid4().hex
    if rank == 0:
        store.set("affectron/start", own)
        names = [store.get(f"affectron/{own}/{other}").decode() for other in range(1, size)]
        store.set(f"affectron/{own}/answers", " ".join(names))
        return own
    while True:
        offered: str = store.get("affectron/start").decode()  # of an earlier start, until rank 0 has started again
        store.set(f"affectron/{offered}/{rank}", own)
        answers = f"affectron/{offered}/answers"
        if store.check([answers]) and own in store.get(answers).decode().split():
            return offered
        time.sleep(0.1)


def finish() -> None:
    """Wait for all processes and leave their group; does nothing for a single process."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def local_device(device: str) -> str:
    """Choose this process' GPU if ``device`` is ``cuda``, or ``auto`` with GPUs available; else return ``device``."""
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else device


def restarted() -> bool:
    """Tell whether ``torchrun --max-restarts`` has restarted this process, which then resumes from the checkpoint."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


class Processes:
    """Processes of a screening; a single one if torch.distributed is not in use.

    Attributes:
        group: gloo group of all processes; None for a single process.
        coupled: gloo group of the processes whose forwards this one takes part in; None if it computes alone.
        rank, size: rank and world size of torch.distributed.
        replica, replicas: number of this process' copy of the model, and number of copies. A copy is one process, or
            all processes of a tensor parallel model. Each copy reads its own shards.
        leader: True where this process writes the files of its copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.group: dist.ProcessGroup | None = None
        self.coupled: dist.ProcessGroup | None = None
        self.rank, self.size = 0, 1
        self.replica, self.replicas, self.leader = 0, 1, True
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # A separate group, so that its messages cannot mix with those of the model's groups.
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
        """Combine the flags of all coupled processes by "or"; each of them calls this before every forward."""
        if self.coupled is None:
            return busy, due, stop
        flags = torch.tensor([busy, due, stop], dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.coupled)
        busy, due, stop = map(bool, flags)
        return busy, due, stop

    def gather(self, value: Any) -> list[Any]:
        """Collect the ``value`` (small, plain data) of each process, in rank order.

        Raises:
            Incomplete: another process has ended.
        """
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise Incomplete(f"another process of the screening has ended ({reason}): {RESUME}") from error
        return values

    def agree(self, value: dict[str, Any]) -> None:
        """Check that all processes have the same value.

        Raises:
            InputError: they differ; the message names the field, the rank and both values.
        """
        for rank, other in enumerate(self.gather(value)):
            for key in value:
                if other.get(key) != value[key]:
                    raise InputError(
                        f"processes of one screening differ: {key} is {value[key]!r} on rank {self.rank} and "
                        f"{other.get(key)!r} on rank {rank}"
                    )

    def share(self, items: Sequence[int]) -> Sequence[int]:
        """Return this copy's share of the items, a run of them. The lengths of all shares differ by one at most."""
        first, last = (len(items) * replica // self.replicas for replica in (self.replica, self.replica + 1))
        return items[first:last]

    def collect(self, folder: ShardFolder, owners: dict[int, int]) -> None:
        """Copy shards that rank 0's folder lacks from their owners' folders; does nothing if all share one disk."""
        if self.group is None:
            return
        on_rank_0 = self.gather([shard for shard in owners if folder.file(shard).is_file()])[0]
        for shard, owner in owners.items():
            if shard in on_rank_0:
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
        """Overwrite the arrays with those of rank 0, which have the same shapes."""
        if self.group is not None:
            for array in arrays:
                dist.broadcast(torch.from_numpy(array), 0, group=self.group)
