"""Find, test and steer the MLP neurons of a language model.

Names are imported from their modules on first use. ``import affectron`` is therefore fast, and a program that needs
``affectron.ops`` alone never loads transformers.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("affectron")

_MODULES = {
    "experiments.ablations": ("ablate",),
    "experiments.associations": ("associate",),
    "attribution.attribute": ("attribute",),
    "corpus": ("Corpus", "Sentence"),
    "errors": ("InputError",),
    "evaluation.exam": ("Exam",),
    "interventions": (
        "Program",
        "Schedule",
        "amplify",
        "attenuate",
        "compose",
        "contrast",
        "cross_signal",
        "induce",
        "mean",
        "residual",
        "schedule",
        "zero",
    ),
    "experiments.cards": ("describe",),
    "experiments.doses": ("choose_beta",),
    "experiments.estimate": ("check_estimate",),
    "experiments.generation": ("compare_texts",),
    "experiments.methods": ("compare_methods",),
    "models": ("Steering", "compact", "declare_mlp", "find_sites", "intervene", "load_model"),
    "neurons": ("NeuronList", "NeuronSet"),
    "ops": ("SegmentPlan", "StatsBuffers"),
    "report": ("build_report", "read_cards"),
    "scores": ("SCORES", "fdr", "score"),
    "screening.screen": ("screen",),
    "selection": ("select",),
    "stats": ("ActivationStats", "SiteStats"),
    "experiments.results": ("Findings", "Validation"),
    "experiments.responses": ("responses",),
    "experiments.validation": ("validate",),
}
#: Public name -> module that defines it.
HOMES = {name: home for home, names in _MODULES.items() for name in names}

__all__ = sorted([*HOMES, "__version__", "models", "ops"])


def __getattr__(name: str) -> Any:
    if name in HOMES:
        value = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from affectron import models as models
    from affectron import ops as ops
    from affectron.attribution.attribute import attribute as attribute
    from affectron.corpus import Corpus as Corpus
    from affectron.corpus import Sentence as Sentence
    from affectron.errors import InputError as InputError
    from affectron.evaluation.exam import Exam as Exam
    from affectron.experiments.ablations import ablate as ablate
    from affectron.experiments.associations import associate as associate
    from affectron.experiments.cards import describe as describe
    from affectron.experiments.doses import choose_beta as choose_beta
    from affectron.experiments.estimate import check_estimate as check_estimate
    from affectron.experiments.generation import compare_texts as compare_texts
    from affectron.experiments.methods import compare_methods as compare_methods
    from affectron.experiments.responses import responses as responses
    from affectron.experiments.results import Findings as Findings
    from affectron.experiments.results import Validation as Validation
    from affectron.experiments.validation import validate as validate
    from affectron.interventions import (
        Program as Program,
    )
    from affectron.interventions import (
        Schedule as Schedule,
    )
    from affectron.interventions import (
        amplify as amplify,
    )
    from affectron.interventions import (
        attenuate as attenuate,
    )
    from affectron.interventions import (
        compose as compose,
    )
    from affectron.interventions import (
        contrast as contrast,
    )
    from affectron.interventions import (
        cross_signal as cross_signal,
    )
    from affectron.interventions import (
        induce as induce,
    )
    from affectron.interventions import (
        mean as mean,
    )
    from affectron.interventions import (
        residual as residual,
    )
    from affectron.interventions import (
        schedule as schedule,
    )
    from affectron.interventions import (
        zero as zero,
    )
    from affectron.models import Steering as Steering
    from affectron.models import compact as compact
    from affectron.models import declare_mlp as declare_mlp
    from affectron.models import find_sites as find_sites
    from affectron.models import intervene as intervene
    from affectron.models import load_model as load_model
    from affectron.neurons import NeuronList as NeuronList
    from affectron.neurons import NeuronSet as NeuronSet
    from affectron.ops import SegmentPlan as SegmentPlan
    from affectron.ops import StatsBuffers as StatsBuffers
    from affectron.report import build_report as build_report
    from affectron.report import read_cards as read_cards
    from affectron.scores import SCORES as SCORES
    from affectron.scores import fdr as fdr
    from affectron.scores import score as score
    from affectron.screening.screen import screen as screen
    from affectron.selection import select as select
    from affectron.stats import ActivationStats as ActivationStats
    from affectron.stats import SiteStats as SiteStats
