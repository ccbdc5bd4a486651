"""Tokens per second of vLLM without the plug-in, with it and no program asked for, and under eight programs.

``python benchmarks/bench_serve.py``, in an environment with vLLM, on a CPU or a GPU. Two engines of one model live in
one process, one with the plug-in configured and one without. All contenders do the same work, 32 requests of 64 tokens
of prompt and 64 written ones unless options say otherwise, and take turns, in another order each round. The plain
engine takes two turns a round: the second over the first is what chance does. The prefix cache is off, since a program
does not share another one's prefixes.

Without ``--model`` the model is a Llama with random weights, small on a CPU. The last lines are a table of medians;
``--json`` writes every round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import affectron
from affectron._internal.provenance import Origin
from affectron.interventions import Program
from affectron.models.identity import fingerprint

PROGRAMS = 8
GOAL = 1.02
PLAIN, AGAIN, IDLE, STEERED = "plain vLLM", "plain vLLM, again", "plug-in, no program", f"plug-in, {PROGRAMS} programs"


def random_llama(folder: Path, on_gpu: bool) -> None:
    torch.manual_seed(0)
    hidden, layers = (2048, 16) if on_gpu else (512, 8)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=7 * hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).to(torch.bfloat16 if on_gpu else torch.float32).save_pretrained(folder)


def save_programs(model_folder: str, folder: Path) -> list[str]:
    """Save programs that multiply a different 1 % of each site's neurons; return their names."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto")
    sites = affectron.find_sites(model)
    dtype = str(model.dtype).removeprefix("torch.")
    origin = Origin({site.name: site.neurons for site in sites}, {"weights": fingerprint(model), "dtype": dtype})
    names = [f"program-{number}" for number in range(PROGRAMS)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        neurons = [
            (site.name, int(index))
            for site in sites
            for index in rng.choice(site.neurons, max(1, site.neurons // 100), replace=False)
        ]
        made = affectron.amplify(neurons, 1.5)
        Program(made.sites, name, origin).save(folder / f"{name}.safetensors")
    return names


def rounds(contenders: dict[str, Callable[[], int]], number: int) -> list[dict[str, float]]:
    """Tokens per second of each contender, round by round, after one round that does not count."""
    names, measured = list(contenders), []
    for turn in range(number + 1):
        speeds = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            tokens = contenders[name]()
            speeds[name] = tokens / (time.perf_counter() - start)
        measured.append(speeds)
    return measured[1:]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="a model folder; default: a Llama with random weights")
    options.add_argument("--dtype", default="auto")
    options.add_argument("--eager", action="store_true", help="without torch.compile and CUDA graphs")
    options.add_argument("--requests", type=int, default=32)
    options.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    options.add_argument("--tokens", type=int, default=64, help="tokens that each request writes")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--json", type=Path, help="file for every round")
    given = options.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # both engines in this process, so that one waits for the other
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    import vllm

    on_gpu = torch.cuda.is_available()
    model = given.model or str(folder / "model")
    if given.model is None:
        random_llama(Path(model), on_gpu)
    (folder / "programs").mkdir()
    names = save_programs(model, folder / "programs")

    def engine(additional: dict[str, Any]) -> Any:
        return vllm.LLM(
            model,
            dtype=given.dtype,
            skip_tokenizer_init=True,
            enforce_eager=given.eager,
            enable_prefix_caching=False,
            max_model_len=given.prompt + given.tokens,
            gpu_memory_utilization=0.4,
            additional_config=additional,
        )

    plain, plugged = engine({}), engine({"affectron": {"programs": str(folder / "programs")}})
    vocabulary = plain.llm_engine.model_config.get_vocab_size()
    rng = np.random.default_rng(0)
    prompts = [{"prompt_token_ids": rng.integers(3, vocabulary, given.prompt).tolist()} for _ in range(given.requests)]

    def work(llm: Any, programs: list[str | None]) -> Callable[[], int]:
        parameters = [
            vllm.SamplingParams(
                temperature=0,
                max_tokens=given.tokens,
                ignore_eos=True,
                detokenize=False,
                extra_args=None if program is None else {"affectron": program},
            )
            for program in programs
        ]

        def run() -> int:
            outputs = llm.generate(prompts, parameters, use_tqdm=False)
            return sum(len(output.outputs[0].token_ids) for output in outputs)

        return run

    none: list[str | None] = [None] * given.requests
    steered: list[str | None] = [names[request % PROGRAMS] for request in range(given.requests)]
    contenders = {
        PLAIN: work(plain, none),
        IDLE: work(plugged, none),
        AGAIN: work(plain, none),
        STEERED: work(plugged, steered),
    }
    measured = rounds(contenders, given.rounds)
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    print(f"{device}, vLLM {vllm.__version__}, {'eager' if given.eager else 'compiled'}, {given.requests} requests")
    print(f"{'contender':24} {'tokens/s':>10} {'time over plain':>16} {'quartiles':>16} {'goal':>6}")
    for name in contenders:
        ratios = [speeds[PLAIN] / speeds[name] for speeds in measured]
        low, middle, high = statistics.quantiles(ratios, method="inclusive")
        goal = f"{GOAL:.2f}" if name in (IDLE, STEERED) else ""
        speed = statistics.median(speeds[name] for speeds in measured)
        print(f"{name:24} {speed:10,.0f} {middle:16.3f} {f'{low:.3f} to {high:.3f}':>16} {goal:>6}")
    if given.json:
        record = {
            "device": device,
            "threads": torch.get_num_threads(),
            "versions": {"vllm": vllm.__version__, "torch": torch.__version__, "affectron": affectron.__version__},
            "options": {name: value for name, value in vars(given).items() if name != "json"},
            "tokens_per_second": measured,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
