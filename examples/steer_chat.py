"""Talk to a model whose mood can be turned between two answers.

    python examples/steer_chat.py                            # the embedded model, measured first
    python examples/steer_chat.py MODEL run/steering.json    # your own, with its stats.safetensors beside the neurons

The neurons are those by text attribution; the program shifts them from the other labels to the one that is asked for. A
line is answered as it is written. `/surprise 4` shifts to surprise with strength 4 from then on, `/off` ends it, and an
empty line ends the talk.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import TextStreamer

import affectron
from affectron.demo import MODEL
from affectron.demo.corpus import generate


def measured(model, tokenizer):
    """Neurons and statistics of the embedded model, from a few of the sentences that it was trained on."""
    corpus = affectron.Corpus.from_records(generate()[::15])
    train = corpus.where(split="train")
    stats = affectron.screen(model, tokenizer, train)
    gradients = affectron.attribute(model, tokenizer, train, metric="text")
    return affectron.select(gradients, top=0.1, activations=stats), stats


def loaded(neurons: Path):
    return affectron.NeuronSet.load(neurons), affectron.ActivationStats.load(neurons.parent / "stats.safetensors")


def main() -> None:
    model, tokenizer = affectron.load_model(sys.argv[1] if len(sys.argv) > 1 else MODEL)
    neurons, stats = loaded(Path(sys.argv[2])) if len(sys.argv) > 2 else measured(model, tokenizer)
    print("labels:", ", ".join(neurons))
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with affectron.intervene(model, [None]) as steering:
        while line := input("> ").strip():
            if line.startswith("/"):
                label, _, beta = line[1:].partition(" ")
                try:
                    steering[0] = (
                        None if label == "off" else affectron.contrast(neurons[label], stats, float(beta or 2))
                    )
                except (affectron.InputError, ValueError) as error:
                    print(error)
                continue
            if tokenizer.chat_template:
                turn = [{"role": "user", "content": line}]
                line = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            else:  # the model goes on with what was said
                line = (tokenizer.bos_token or "") + line
            inputs = tokenizer(line, add_special_tokens=False, return_tensors="pt").to(model.device)
            model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=40,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                streamer=streamer,
            )


if __name__ == "__main__":
    main()
