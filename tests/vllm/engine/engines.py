"""Models with programs, the texts that transformers writes with them, and jobs for the process that runs engines."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import affectron
from affectron._internal.provenance import Origin
from affectron.interventions import Program, Schedule, SiteProgram, load_program, schedule
from affectron.models.provenance import made_with

#: The key of a program's name in a request.
KEY = "affectron"
#: Names of the programs that :meth:`Model.write_programs` writes.
PROGRAMS = ("zero", "amplify", "shift", "damped", "window", "prompt", "fading")
#: Places that they take: a schedule's programs are others than those of the other files.
PLACES = 18
TOKENS = 16
#: The demo model's context, and a batch that no prompt below fits into beside others.
CONTEXT, CHUNK = 128, 48

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass
class Model:
    """A model folder, a folder of programs for it, and what transformers writes.

    Attributes:
        folder: the model folder.
        programs: the folder of programs.
        seed: other numbers give other programs.
    """

    folder: Path
    programs: Path
    seed: int = 0
    written: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model, self.tokenizer = affectron.load_model(self.folder, "float32")
        self.write_programs()

    def write_programs(self) -> None:
        self.programs.mkdir()
        zero, amplify = self.program("zero", 0.8, 0.0), self.program("amplify", 0.5, 5.0)
        shift, damped = self.program("shift", 0.4, shift=1.0), self.program("damped", 0.9, 1.5, 2.0, 0.1)
        window = schedule(zero, where="generated", start=2, stop=6)
        fading = schedule(shift, where="generated", half_life=4)
        given = (zero, amplify, shift, damped, window, schedule(amplify, stop=0), fading)
        for name, program in zip(PROGRAMS, given, strict=True):
            program.save(self.programs / f"{name}.safetensors")

    def program(
        self,
        name: str,
        share: float,
        scale: float = 1.0,
        damping: float = 0.0,
        floor: float = -np.inf,
        shift: float = 0.0,
    ) -> Program:
        """A program of random neurons, a share of each site's; their shifts have the standard deviation ``shift``."""
        rng = np.random.default_rng([self.seed, *name.encode()])
        sites = {}
        for site in affectron.find_sites(self.model):
            index = np.sort(rng.choice(site.neurons, int(site.neurons * share), replace=False))
            given = (np.full(len(index), value) for value in (scale, damping, floor))
            sites[site.name] = SiteProgram(index, *given, rng.normal(size=len(index)) * shift)
        widths = {site.name: site.neurons for site in affectron.find_sites(self.model)}
        return Program(sites, name, Origin(widths, made_with(self.model, self.tokenizer)))

    @cached_property
    def loaded(self) -> dict[str, Program | Schedule]:
        return {name: load_program(self.programs / f"{name}.safetensors") for name in PROGRAMS}

    def text(self, prompt: Sequence[int], program: str | None) -> list[int]:
        """The 16 tokens that transformers writes after a prompt, greedily."""
        key = (*prompt, program)
        if key not in self.written:
            given = torch.tensor([prompt])
            with torch.inference_mode(), self.steered(program) as model:
                text = model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            self.written[key] = text[0, len(prompt) :].tolist()
        return self.written[key]

    @contextmanager
    def steered(self, program: str | None, model: Any = None) -> Iterator[Any]:
        """The model, or another one with the same sites, under a program."""
        model = self.model if model is None else model
        with affectron.intervene(model, self.loaded[program]) if program else nullcontext():
            yield model

    def engine(self, **options: Any) -> dict[str, Any]:
        """The options of an eager engine with the programs."""
        configuration = {KEY: {"programs": str(self.programs), "capacity": PLACES}}
        return {
            "model": str(self.folder),
            "max_model_len": CONTEXT,
            "enforce_eager": True,
            "additional_config": configuration,
            **options,
        }


def request(
    prompt: Sequence[int],
    program: Any = None,
    tokens: int = TOKENS,
    *,
    adapter: str = "",
    inputs: Mapping[str, Any] = {},
    **parameters: Any,
) -> dict[str, Any]:
    """A request of the process.

    Args:
        prompt: its tokens.
        program: value of the program's entry; None leaves the entry out.
        tokens: how many to write.
        adapter: folder of a LoRA adapter.
        inputs: other entries of the prompt.
        parameters: other parameters of sampling.
    """
    named = {} if program is None else {"extra_args": {KEY: program}}
    return {
        "prompt": list(prompt),
        "parameters": {"max_tokens": tokens, **named, **parameters},
        "inputs": dict(inputs),
        "adapter": adapter,
    }


def program_of(one: Mapping[str, Any]) -> Any:
    """The program that a request names."""
    return one["parameters"].get("extra_args", {}).get(KEY)


def unsteered(requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests without a program."""
    return [one for one in requests if program_of(one) is None]


def mixed(prompts: Sequence[Sequence[int]], tokens: int = TOKENS) -> list[dict[str, Any]]:
    """Four requests of each prompt, without a program and with three of the programs, in a random order.

    Requests of the same prompt are in one batch under different programs.
    """
    pairs = []
    for number, prompt in enumerate(prompts):
        names = [PROGRAMS[(3 * number + offset) % len(PROGRAMS)] for offset in range(3)]
        pairs += [(prompt, name) for name in (None, *names)]
    random.Random(0).shuffle(pairs)
    return [request(prompt, name, tokens) for prompt, name in pairs]


def batch(requests: Sequence[dict[str, Any]], engine: int = 0, **changes: bool) -> dict[str, Any]:
    """A batch of the process, for the engine of this number.

    Changes: ``unsalted`` leaves out the salt of programs, ``asynchronous`` says that the scheduler is asynchronous.
    """
    return {"requests": list(requests), "engine": engine, **changes}


def run(
    folder: Path, engines: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]], **environment: str
) -> dict[str, Any]:
    """Run a job in a process of its own; return what it writes."""
    job, answer, log = (folder / name for name in ("job.json", "answer.json", "log.txt"))
    job.write_text(json.dumps({"engines": engines, "batches": batches}))
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, in which the salt can be left out
        "VLLM_CACHE_ROOT": str(folder.parent / "vllm"),
    }
    command = [sys.executable, "-m", "tests.vllm.engine.process", job, answer]
    environment = {**os.environ, **ENVIRONMENT, **settings, **environment}
    with log.open("w") as file:
        ended = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=900, check=False)
    assert ended.returncode == 0, "\n".join(log.read_text().splitlines()[-40:])
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def told(result: dict[str, Any]) -> list[list[int]]:
    """The first text of each answer of a batch."""
    assert "answers" in result, result
    return [one["tokens"][0] for one in result["answers"]]


def expected(model: Model, requests: Sequence[dict[str, Any]]) -> list[list[int]]:
    """What transformers writes for requests."""
    return [model.text(one["prompt"], program_of(one))[: one["parameters"]["max_tokens"]] for one in requests]
