"""Whole experiments from one file: its configuration, the stages, and the record of those that are done."""

from affectron.runs.config import Config, load_config
from affectron.runs.engine import Planned, plan, run

__all__ = ["Config", "Planned", "load_config", "plan", "run"]
