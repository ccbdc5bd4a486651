"""Serve a batch in which each request has its own steering, and change it while the batch decodes.

    python examples/per_request.py

One decoding loop with a static cache, as a server would run it. Requests 0 and 1 are surprised and happy; request 2 is
left alone and becomes sad half-way; the joy of request 3 fades. To compile the step, wrap `model` in `torch.compile`
inside the context: what is set later is read by the same compiled step.
"""

from __future__ import annotations

import torch
from transformers import StaticCache

import affectron
from affectron.demo import MODEL
from affectron.demo.corpus import generate

STEPS = 24


@torch.no_grad()
def main() -> None:
    model, tokenizer = affectron.load_model(MODEL)
    corpus = affectron.Corpus.from_records(generate()[::15])
    stats = affectron.screen(model, tokenizer, corpus.where(split="train"))
    neurons = affectron.select(stats, top=0.1)

    def induce(label: str, beta: float) -> affectron.Program:
        return affectron.induce(neurons[label], stats, beta)

    programs = [
        induce("surprise", 4.0),
        induce("happiness", 8.0),
        None,
        affectron.schedule(induce("happiness", 8.0), half_life=6),
    ]
    prompt = [tokenizer.bos_token_id, *tokenizer.encode("Yesterday evening", add_special_tokens=False)]
    ids = torch.tensor([prompt] * len(programs))
    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + STEPS)
    texts, new = ids, ids
    with affectron.intervene(model, programs, capacity=32) as steering:
        steering.prompt_length = ids.shape[1]  # model.generate would say it by itself
        for step in range(STEPS):
            if step == STEPS // 2:
                steering[2] = induce("sadness", 4.0)
            new = model(new, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            texts = torch.cat([texts, new], 1)
        for program, text in zip(steering, tokenizer.batch_decode(texts, skip_special_tokens=True), strict=True):
            print(f"{'no program' if program is None else program.name}:\n    {' / '.join(text.splitlines())}")


if __name__ == "__main__":
    main()
