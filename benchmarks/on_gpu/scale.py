"""Size of a run, and the device that it runs on."""

from __future__ import annotations

from dataclasses import dataclass

from affectron.ops._backends import BACKENDS, absence_of

LABELS = 10

LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
LLAMA_TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured."""

    device: str
    compiler: str  # torch.compile's backend
    rounds: int
    # One layer, and the model that it is of.
    tokens: int
    llama: dict[str, int]
    # Screening: sentences of the two corpora, tokens of a batch, rounds.
    sentences: tuple[int, int]
    batch_tokens: int
    screen_rounds: int
    # Attribution: layers of the model; the smaller corpus, and the same batches and rounds.
    attributed_layers: int
    # Decoding: positions of the cache, layers of the model that `generate` compiles, tokens that it writes.
    cache: int
    generate_layers: int
    written: int

    @property
    def neurons(self) -> int:
        return self.llama["intermediate_size"]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def backends(self) -> list[str]:
        """Those with kernels of this project; on a CPU plain torch stands in for what is not there."""
        return [
            name
            for name in BACKENDS
            if absence_of(name, self.device) is None and not (self.on_gpu and name == "reference")
        ]


FULL = Scale(
    device="cuda",
    compiler="inductor",
    rounds=50,
    tokens=8192,
    llama=LLAMA_8B,
    sentences=(546, 1638),  # about 2 and 6 batches
    batch_tokens=8192,
    screen_rounds=4,
    attributed_layers=8,
    cache=256,
    generate_layers=4,
    written=64,
)
DRY = Scale(
    device="cpu",
    compiler="eager",
    rounds=2,
    tokens=600,
    llama=LLAMA_TINY,
    sentences=(12, 36),
    batch_tokens=128,
    screen_rounds=2,
    attributed_layers=2,
    cache=16,
    generate_layers=1,
    written=4,
)
