"""The report of a run: one HTML page with figures and tables; matplotlib and jinja2 are loaded when it is made."""

from affectron.report.cards import read_cards
from affectron.report.page import build_report

__all__ = ["build_report", "read_cards"]
