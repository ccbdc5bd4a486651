"""Results of every experiment with made-up numbers, and a run folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affectron._internal.artifacts import NEURONS, STATS, findings_file
from affectron.evaluation.verdicts import CANNOT_TELL, LOWERS, NO_EFFECT, RAISES, SPECIFIC, VERDICTS
from affectron.experiments.results import (
    MASKS,
    Ablation,
    Ablations,
    AblationsOptions,
    Accuracy,
    AssociatedPair,
    Associations,
    AssociationsOptions,
    CandidateNeuron,
    Candidates,
    CandidatesOptions,
    Cards,
    CardsOptions,
    CrossSignal,
    CrossSignalOptions,
    Curve,
    CurvePoint,
    Effect,
    Estimate,
    EstimatedNeuron,
    EstimateOptions,
    ExamOptions,
    Excerpt,
    Findings,
    Generation,
    GenerationOptions,
    Heights,
    Induction,
    InductionOptions,
    Judge,
    LabelCandidates,
    LabelEstimate,
    LabelInduction,
    LabelLayers,
    LabelMethods,
    LabelResponses,
    LabelResult,
    LabelSignals,
    LabelStability,
    Mask,
    MethodGeneration,
    MethodResult,
    Methods,
    MethodsOptions,
    Moments,
    NeuronCard,
    NeuronResponse,
    RandomSets,
    ResponsePoint,
    Responses,
    ResponsesOptions,
    Round,
    Score,
    Setting,
    Signal,
    Spread,
    Stability,
    StabilityOptions,
    TaskGeneration,
    TaskMethods,
    TaskResult,
    Validation,
    Versus,
    VocabularyToken,
    WrittenText,
)
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES
from affectron.stats import ActivationStats

Tasks = Mapping[str, Sequence[str]]

SITES = [f"model.layers.{layer}.mlp" for layer in range(6)]
WIDTH = 512
PROVENANCE = {
    "affectron": "0.1.0",
    "model": "emorhet-3m",
    "model_hash": "5f0c9b7e",
    "weights": "a41b77d0",
    "tokenizer": "9d1e22c4",
    "corpus": ["77b1c0de"],
    "corpus_name": "data.jsonl",
    "split": "train",
    "tokens": "all",
    "active": "gate",
    "dtype": "bfloat16",
    "template": "{text}",
    "count_special": False,
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.14"},
}
SELECT = {
    "task": None, "top": 0.05, "score": "entropy", "filter_rate": 0.95, "assign": "argmax",
    "activation_bar_ratio": 0.95, "sign": None, "min_effect": None, "fdr": None, "min_count": None,
}  # fmt: skip
EXAM = ExamOptions("label_likelihood", {"prompts": {"tone": "{text}"}}, "dev", "test", None, 0)


def make_stats(tasks: Tasks) -> ActivationStats:
    rng = np.random.default_rng(1)
    segments = [(label,) for labels in tasks.values() for label in labels]
    if len(tasks) > 1:
        segments.append(tuple(labels[0] for labels in tasks.values()))
    arrays = {}
    count = rng.integers(3000, 9000, len(segments))
    for site in SITES:
        shape = (len(segments), WIDTH)
        arrays[site] = {
            "count": count,
            "active": rng.integers(0, 3000, shape),
            "nonfinite": np.zeros(shape, np.int64),
            "mean": rng.normal(size=shape),
            "m2": rng.random(shape),
            "min": np.full(shape, -5, np.float32),
            "max": np.full(shape, 5, np.float32),
        }
    return ActivationStats(tasks, segments, arrays, PROVENANCE)


def make_neurons(tasks: Tasks) -> NeuronSet:
    rng = np.random.default_rng(2)
    weights = np.array([1, 1, 2, 3, 5, 8]) / 20
    lists = []
    for task, labels in tasks.items():
        taken: set[tuple[str, int]] = set()
        for label in labels:
            size = int(rng.integers(18, 60))
            drawn = {(SITES[rng.choice(6, p=weights)], int(rng.integers(0, 120))) for _ in range(size)} - taken
            taken |= drawn
            lists.append(NeuronList(label, task, [(site, index, 0.1) for site, index in sorted(drawn)]))
    return NeuronSet(lists, dict.fromkeys(SITES, WIDTH), {**PROVENANCE, "select": SELECT})


def make_random_sets(rng: np.random.Generator, beyond: int = 0, sets: int = 219) -> RandomSets:
    deltas = tuple(rng.normal(-0.01, 0.015, 10).tolist())
    interval = (min(deltas), max(deltas))
    return RandomSets(sets, beyond, (1 + beyond) / (1 + sets), 40, deltas, float(np.mean(deltas)), interval, 1.05)


#: Verdict -> own sentences that the mask loses, and those that it gains.
_CHANGED = {SPECIFIC: (24, 2), LOWERS: (12, 1), RAISES: (1, 11), NO_EFFECT: (0, 0), CANNOT_TELL: (3, 2)}


def make_label_result(rng: np.random.Generator, neurons: NeuronList, first: int) -> LabelResult:
    """A label whose masks have the verdicts from number ``first`` on."""

    def around(center: float, half: float) -> tuple[float, float]:
        return center - half * rng.uniform(0.8, 1.2), center + half * rng.uniform(0.8, 1.2)

    baseline = float(rng.uniform(0.4, 0.85))
    rounds = int(rng.integers(1, 9))
    drop = np.cumsum(rng.uniform(-0.005, 0.025, rounds)).tolist()
    sentences = int(rng.integers(90, 135))
    share = min(1.0, 0.1 * rounds)
    by_site = neurons.top(share).by_site()
    masks = {}
    for place, name in enumerate(MASKS):
        verdict = VERDICTS[(first + place) % len(VERDICTS)]
        lost, gained = _CHANGED[verdict]
        delta, others = (gained - lost) / sentences, float(rng.normal(0.003, 0.006))
        masks[name] = Mask(
            accuracy=baseline + delta,
            delta=delta,
            interval=around(delta, 0.05),
            lost=lost,
            gained=gained,
            p=float(rng.uniform(0, 0.01)),
            others_delta=others,
            others_interval=around(others, 0.02),
            specific_delta=delta - others,
            specific_interval=around(delta - others, 0.06),
            specific_p=float(rng.uniform(0, 0.01)),
            answers_delta=delta - 0.01,
            others_answers_delta=-0.02,
            answers_p=float(rng.uniform(0, 0.01)),
            relative_change=float(rng.uniform(0.05, 1)),
            random=make_random_sets(rng, int(rng.integers(0, 5)), 219 if verdict == SPECIFIC else 10),
            adjusted_p=float(rng.uniform(0.01, 0.5)),
            specific_adjusted_p=float(rng.uniform(0.01, 0.5)),
            verdict=verdict,
            reason="" if verdict in (SPECIFIC, RAISES) else f"the reason of {name}",
            loss_delta=float(rng.uniform(0, 0.05)),
        )
    return LabelResult(
        selected=len(neurons),
        trace=tuple(
            Round(
                reference="rms",
                alpha=0.3 + 0.1 * i,
                share=0.1 * (i + 1),
                neurons=max(1, round(0.1 * (i + 1) * len(neurons))),
                dev_accuracy=baseline - drop[i],
                dev_drop=drop[i],
                relative_change=0.3 + 0.1 * i,
            )
            for i in range(rounds)
        ),
        stopped="drop reached" if drop[-1] >= 0.05 else "caps reached",
        reference="rms",
        alpha=0.3 + 0.1 * (rounds - 1),
        share=0.1 * rounds,
        masked=sum(map(len, by_site.values())),
        sites={site: len(index) for site, index in by_site.items()},
        baseline=baseline,
        sentences=sentences,
        masks=masks,
    )


def make_validation(tasks: Tasks, neurons: NeuronSet) -> Validation:
    rng = np.random.default_rng(3)
    options = {
        "evaluator": "label_likelihood",
        "prompts": {task: f"{{bos}}{{text}}\n{task.title()}:" for task in tasks},
        "reference": ["rms"], "alpha": 0.3, "alpha_step": 0.1, "alpha_cap": 1.0, "share": 0.1, "share_step": 0.1,
        "share_cap": 1.0, "min_drop": 0.05, "random_sets": None, "smallest_effect": 0.05, "seed": 0, "dev": "dev",
        "test": "test", "neutral": None,
    }  # fmt: skip
    made = {}
    for task, labels in tasks.items():
        results = {label: make_label_result(rng, neurons[label], place) for place, label in enumerate(labels)}
        per_label = {label: result.baseline for label, result in results.items()}
        accuracy = float(np.mean(list(per_label.values())))
        on_dev = {label: value + 0.01 for label, value in per_label.items()}
        made[task] = TaskResult(
            labels=tuple(labels),
            dev_sentences=120 * len(labels),
            baseline={"dev": Accuracy(accuracy + 0.01, on_dev), "test": Accuracy(accuracy, per_label)},
            test_sentences=119 * len(labels),
            results=results,
        )
    return Validation({**PROVENANCE, "split": "test"}, options, made)


def make_induction(tasks: Tasks) -> Induction:
    rng = np.random.default_rng(4)
    betas = (0.0, 0.5, 1.0, 2.0, 4.0)

    def curve() -> LabelInduction:
        share = 0.1 + 0.5 * (1 - np.exp(-np.array(betas) * rng.random()))
        return LabelInduction(
            selected=9,
            sentences=100,
            baseline=0.1,
            share=tuple(share.tolist()),
            interval=tuple(zip((share - 0.05).tolist(), (share + 0.05).tolist(), strict=True)),
            random=(0.1, 0.11, 0.1, 0.12, 0.13),
            loss_delta=(0.0, 0.01, 0.05, 0.2, None),
        )

    made = {task: {label: curve() for label in labels} for task, labels in tasks.items()}
    return Induction(PROVENANCE, InductionOptions(EXAM, betas, 5), made)


def make_candidates(tasks: Tasks, score: str = "entropy", **options: Any) -> Candidates:
    """Two neurons a label, the first selected for a higher value, the second for a lower one, where scores do that."""
    reads, second = SCORES[score].reads, "lower" if SCORES[score].per_label else "higher"
    given: dict[str, Any] = {
        "split": "dev", "score": score, "reads": reads, "tokens": "all", "active": "gate", "permutations": 1000,
        "seed": 0, **options,
    }  # fmt: skip

    def neuron(label: str, index: int, direction: str) -> CandidateNeuron:
        return CandidateNeuron(
            site=SITES[0],
            index=index,
            direction=direction,
            auroc=0.9 - 0.5 * index,
            interval=(0.85 - 0.5 * index, 0.95 - 0.5 * index),
            p=0.01,
            redundancy=None,
            q=0.02,
        )

    made = {
        label: LabelCandidates(task, 9, 9, (neuron(label, 0, "higher"), neuron(label, 1, second)))
        for task, labels in tasks.items()
        for label in labels
    }
    provenance = {**PROVENANCE, "tested": {"sentences": 9, "screened": 0, "texts": ""}}
    return Candidates(provenance, CandidatesOptions(**given), made)


def make_cards(tasks: Tasks, count: int = 4) -> Cards:
    """A card for each of the first ``count`` neurons of each label of :func:`make_neurons`."""
    rng = np.random.default_rng(8)
    made: dict[tuple[str, int], NeuronCard] = {}
    for label, neurons in make_neurons(tasks).items():

        def excerpt(sign: float, label: str = label) -> Excerpt:
            tokens = ("I", " can", "'t", " bear", f" {label}", " <b>", "!")
            activations = (sign * rng.random(len(tokens))).tolist()
            extreme = int(np.argmax(np.abs(activations)))
            return Excerpt((label,), tokens, (None, *activations[1:]), max(1, extreme), (False, True))

        for site, index, _ in neurons.top(count / len(neurons)):
            labels = tasks[neurons.task]
            made[site, index] = NeuronCard(
                site, index, (label,), (excerpt(1), excerpt(1)), (excerpt(-1),),
                {name: Spread(9, tuple(np.sort(rng.normal(size=5)).tolist())) for name in labels},  # type: ignore[arg-type]
                {name: Moments(9, *rng.normal(size=4).tolist()) for name in labels},
                (VocabularyToken(" rage", 0.25), VocabularyToken("ärger", 0.2)), (VocabularyToken("\n", -0.3),),
            )  # fmt: skip
    options = CardsOptions("dev", "all", "gate", count, 2, 48, 2)
    return Cards(PROVENANCE, options, tuple(made[neuron] for neuron in sorted(made)))


def make_responses(tasks: Tasks, count: int = 4) -> Responses:
    """Responses of the neurons of :func:`make_cards`: P(label) rises with the factor."""
    factors = (0.0, 0.5, 1.0, 2.0, 4.0)
    points = tuple(ResponsePoint(0.02 * (f - 1), (0.02 * (f - 1) - 0.01, 0.02 * (f - 1) + 0.01)) for f in factors)
    made = {
        label: LabelResponses(
            neurons.task, 9, 0.4,
            tuple(NeuronResponse(site, index, points) for site, index, _ in neurons.top(count / len(neurons))),
        )
        for label, neurons in make_neurons(tasks).items()
    }  # fmt: skip
    return Responses(PROVENANCE, ResponsesOptions(EXAM, count, factors), made)


def make_effect(delta: float = -0.1) -> Effect:
    verdict = SPECIFIC if delta < -0.05 else NO_EFFECT
    return Effect(
        accuracy=0.5,
        delta=delta,
        interval=(delta - 0.1, delta + 0.05),
        lost=5,
        gained=2,
        p=0.0012,
        others_delta=0.0,
        others_interval=(-0.01, 0.01),
        specific_delta=delta,
        specific_interval=(delta - 0.1, delta + 0.06),
        specific_p=0.003,
        answers_delta=delta - 0.01,
        others_answers_delta=-0.02,
        answers_p=0.004,
        relative_change=0.18,
        random=make_random_sets(np.random.default_rng(6)),
        adjusted_p=0.0132,
        specific_adjusted_p=0.05,
        verdict=verdict,
        reason="" if verdict == SPECIFIC else "a change of 5 points is excluded",
    )


def make_methods(tasks: Tasks) -> Methods:
    """One method with neurons, of which its ranking has six, and one without."""
    heights = (Heights(-0.05, 0.01, 0.0), Heights(-0.2, -0.02, None))
    curve = Curve(tuple(map(CurvePoint, (4, 6), heights)), Heights(-0.125, -0.005, None))
    compared = {"paper": MethodResult(3, make_effect(), curve), "lee": MethodResult(0, None, Curve((), None))}
    made = {
        task: TaskMethods({label: LabelMethods(9, compared, "paper") for label in labels}, ((1.0, None), (None, None)))
        for task, labels in tasks.items()
    }
    return Methods(PROVENANCE, MethodsOptions(EXAM, ("paper", "lee"), 0.01, (4, 8), None, 0.05), made)


def make_estimate(tasks: Tasks) -> Estimate:
    """Labels with two selected neurons and a random one, and a last one without any."""
    neurons = (
        EstimatedNeuron(SITES[0], 3, True, 0.5, 0.25),
        EstimatedNeuron(SITES[2], 1, True, 0.25, 0.125),
        EstimatedNeuron(SITES[2], 9, False, -0.01, 0.0),
    )
    known, unknown = LabelEstimate(9, neurons, 1.0, 1.0, 0.5), LabelEstimate(9, (), None, None, None)
    made = {task: {**dict.fromkeys(labels, known), labels[-1]: unknown} for task, labels in tasks.items()}
    return Estimate(PROVENANCE, EstimateOptions(EXAM, 2), made)


def make_generation(tasks: Tasks, beginnings: int = 12, texts: int = 2) -> Generation:
    """Texts of each label: of its neurons more have the label than of the residual stream, of random ones none more
    than of the unsteered model."""

    def method(
        label: str, hits: int, neurons: int | None, doses: int, versus: Mapping[str, Versus]
    ) -> MethodGeneration:
        total = beginnings * texts
        written = tuple(WrittenText(f"{label} text {n}", label if n < hits else None) for n in range(total))
        settings = tuple(
            Setting(0.2 * (n + 1), 1.5 * (n + 1), None if neurons else SITES[n % 2], Score(0.2 * n, 0.1 * n, 0.9))
            for n in range(doses)
        ) or (Setting(None, None, None, Score(hits / total, 0.0, None)),)
        return MethodGeneration(
            neurons, settings, len(settings) - 1, Score(hits / total, 0.25, 0.8), (0.1, 0.9), 0.5, ("love", "hate"),
            0.25, dict(versus), written,
        )  # fmt: skip

    def methods(label: str) -> dict[str, MethodGeneration]:
        above, level = Versus(0.4, (0.2, 0.6), 0.001, 0.004), Versus(0.05, (-0.1, 0.2), 0.4, 1.0)
        others = {"unsteered": above, "random 5 %": above, "residual": above, "prompt": level}
        return {
            "unsteered": method(label, 3, None, 0, {}),
            "neurons 5 %": method(label, 18, 153, 3, others),
            "random 5 %": method(label, 3, 153, 3, {}),
            "residual": method(label, 9, None, 4, {}),
            "prompt": method(label, 16, None, 0, {}),
        }

    made = {
        task: TaskGeneration(
            Judge("words", 0.55, 99), Judge("label_likelihood", 0.48, 60), 2.05,
            tuple(f"beginning {n}" for n in range(beginnings)), {label: methods(label) for label in labels},
        )
        for task, labels in tasks.items()
    }  # fmt: skip
    options = GenerationOptions(
        EXAM, (0.05,), (0.2, 0.4, 0.6), 0.5, tuple(SITES[:2]), "Write {label}: {text}", 8, beginnings, texts, 24, "\n",
        0.7,
    )  # fmt: skip
    return Generation(PROVENANCE, options, made)


def make_ablations(tasks: Tasks) -> Ablations:
    settings: list[tuple[str, str | float, int, Effect | None]] = [
        ("sites", "all", 9, make_effect()),
        ("sites", "bottom", 9, make_effect()),
        ("sites", "middle", 0, None),
        ("sites", "top", 3, make_effect(0.01)),
        ("alpha", 0.5, 9, make_effect(-0.04)),
        ("alpha", 1, 9, make_effect()),
    ]
    rows = tuple(
        Ablation(task, label, sweep, setting, 1.0, masked, 30, effect)
        for task, labels in tasks.items()
        for label in labels
        for sweep, setting, masked, effect in settings
    )
    return Ablations(
        PROVENANCE, AblationsOptions(EXAM, "rms", 1.0, (0.5, 1.0), (), (), {"score": "entropy"}, None, 0.05), rows
    )


def make_cross_signal(source: Sequence[str], target: Sequence[str]) -> CrossSignal:
    effect = make_effect(0.1)
    signal = Signal(**effect.measures(), random=effect.random, dev=(0.0, 0.1), omega=2.0, adjusted_p=0.0275, helps=True)
    made = {label: LabelSignals(30, 9, dict.fromkeys(source, signal)) for label in target}
    return CrossSignal(PROVENANCE, CrossSignalOptions(EXAM, "tone", "mood", (1.0, 2.0), None), made)


def make_associations(tasks: Tasks) -> Associations:
    labels = [(task, label) for task, names in tasks.items() for label in names]
    pairs = tuple(
        AssociatedPair(first, second, task == other, 2, 0.5, 0.1, 0.02, None if task == other else 0.3, 0.04)
        for position, (task, first) in enumerate(labels)
        for other, second in labels[position + 1 :]
    )
    layers = {label: LabelLayers(dict.fromkeys(SITES, 1), {"bottom": 2, "middle": 2, "top": 2}) for _, label in labels}
    names = {task: tuple(members) for task, members in tasks.items()}
    return Associations(PROVENANCE, AssociationsOptions("hedges_g"), 6 * WIDTH, names, pairs, layers)


def make_stability(tasks: Tasks) -> Stability:
    made = {
        label: LabelStability(task, 1, ((SITES[0], 0, 1.0),), ((SITES[1], 4, 0.25),), 0.5)
        for task, labels in tasks.items()
        for label in labels
    }
    return Stability(PROVENANCE, StabilityOptions(4, {"top": 0.05}, 25, 4, 0), made)


def make_results(tasks: Tasks) -> dict[str, Findings]:
    """Kind -> a result of that kind."""
    first, *others = tasks.values()
    results: list[Findings] = [
        make_validation(tasks, make_neurons(tasks)), make_ablations(tasks), make_associations(tasks),
        make_candidates(tasks), make_cards(tasks), make_cross_signal(first, others[-1] if others else first),
        make_estimate(tasks), make_generation(tasks), make_induction(tasks), make_methods(tasks),
        make_responses(tasks), make_stability(tasks),
    ]  # fmt: skip
    return {result.kind: result for result in results}


def make_run(folder: Path, tasks: Tasks, *kinds: str) -> Validation:
    """Write the run folder of a validation, an induction and further ``kinds``; return the validation."""
    folder.mkdir(parents=True, exist_ok=True)
    make_stats(tasks).save(folder / STATS)
    neurons = make_neurons(tasks)
    neurons.save(folder / NEURONS)
    results = make_results(tasks)
    for kind in ("validation", "induction", *kinds):
        results[kind].save(folder / findings_file(kind))
    return make_validation(tasks, neurons)
