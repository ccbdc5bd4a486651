"""The report of a run: figures and one HTML page. Apart because only this needs matplotlib and jinja2, and both are
imported when a report is built, not before."""

from __future__ import annotations

from affectron.report.page import build_report

__all__ = ["build_report"]
