"""Whole experiments from one file: what is to be done (config), in which stages (stages), and what of it is done
already (cache)."""

from affectron.runs.config import Config, load_config
from affectron.runs.stages import Planned, plan, run

__all__ = ["Config", "Planned", "load_config", "plan", "run"]
