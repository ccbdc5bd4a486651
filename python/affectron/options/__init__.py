"""Every option once: a frozen dataclass for each step, whose fields carry help, default, bound and origin.

The functions of the package take their defaults from these classes. The command line, the tables of ``affectron run``
and the notes of the report are made from them.
"""

from affectron.options.experiments import (
    Ablate,
    Ask,
    Associate,
    Candidates,
    Controls,
    CrossSignal,
    Estimate,
    Evaluate,
    Generate,
    Induce,
    Methods,
    Stability,
    Validate,
)
from affectron.options.inputs import Columns, Common, Inputs, Load
from affectron.options.measures import (
    COUNT,
    METHODS,
    TOP,
    Attribute,
    AttributePairs,
    KeepStable,
    Method,
    Read,
    Screen,
    ScreenPairs,
    ScreenSites,
    Select,
    SelectTask,
    Sharded,
)

__all__ = [
    "COUNT",
    "METHODS",
    "TOP",
    "Ablate",
    "Ask",
    "Associate",
    "Attribute",
    "AttributePairs",
    "Candidates",
    "Columns",
    "Common",
    "Controls",
    "CrossSignal",
    "Estimate",
    "Evaluate",
    "Generate",
    "Induce",
    "Inputs",
    "KeepStable",
    "Load",
    "Method",
    "Methods",
    "Read",
    "Screen",
    "ScreenPairs",
    "ScreenSites",
    "Select",
    "SelectTask",
    "Sharded",
    "Stability",
    "Validate",
]
