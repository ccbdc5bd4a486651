"""Drawing with matplotlib: the style of all figures, panels in a grid, and a figure as SVG and PNG.

Text stays text, so that it can be searched and copied, and so that the reader's own fonts set a label in any script.
The same input gives the same bytes, and no global state of matplotlib is touched. The colours are those of Okabe and
Ito (2008), which readers with any common form of colour blindness can tell apart; marks differ in shape too.
"""

from __future__ import annotations

import io
import warnings
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from affectron.report.text import clean

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
INK, FAINT, BAND = "#333333", "#D9D9D9", "#DDDDDD"

#: Inches; 648 points, which a browser shows as 864 px: the text column of the report.
WIDTH = 9.0
COLUMNS = 4

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "affectron",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
}


def short(text: str, limit: int = 22) -> str:
    """The text for a figure: on one line and at most ``limit`` characters long."""
    text = " ".join(clean(text).split()) or "(empty)"
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Drawing(NamedTuple):
    """A figure as an SVG document and as a PNG image of twice the resolution of a screen; ``told`` says in text what it
    shows. On a dark page a ``heat`` map stays light, so that its numbers stand out from their cells."""

    svg: str
    png: bytes
    told: str
    heat: bool = False


def drawn(figure: Figure, told: str, heat: bool = False) -> Drawing:
    """Draw the figure in both forms, with neither date nor version in them."""
    svg, png, told = io.StringIO(), io.BytesIO(), clean(told)
    with warnings.catch_warnings():
        # A label may be in a script that the font lacks which measures it; the reader's font sets it.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing.*")
        FigureCanvasSVG(figure)
        metadata = {**dict.fromkeys(("Creator", "Date", "Format", "Type")), "Description": told}
        figure.savefig(svg, format="svg", metadata=metadata, facecolor="none")
        figure.set_layout_engine("none")  # finding the layout again would take half of the time
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=192, metadata={"Software": None}, facecolor="white")
    return Drawing(svg.getvalue(), png.getvalue(), told, heat)


def inline(drawing: Drawing, name: str, title: str) -> str:
    """The SVG element for an HTML page: without prolog, ids made unique by ``name``, ``title`` and what the drawing
    shows for screen readers.

    Ids are renamed in the parsed tree and not in the text, because a label could look like an id.
    """
    space = "{http://www.w3.org/2000/svg}"
    link = "{http://www.w3.org/1999/xlink}href"
    ElementTree.register_namespace("", space[1:-1])
    ElementTree.register_namespace("xlink", link[1 : -len("}href")])
    root = ElementTree.fromstring(drawing.svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet of matplotlib would apply to the whole page; the element inherits its two rules instead.
            if child.tag in (f"{space}style", f"{space}metadata"):
                parent.remove(child)
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
        if element.attrib.get(link, "").startswith("#"):
            element.set(link, f"#{name}-{element.attrib[link][1:]}")
        for key, value in element.attrib.items():
            if "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    width = float(root.attrib.pop("width").removesuffix("pt")) * 4 / 3
    root.attrib.pop("height")
    # Below the least width the page scrolls the figure instead of shrinking its letters further.
    sizes = f"min-width:{min(width, 560):.0f}px;max-width:{width:.0f}px"
    root.set("style", f"{sizes};stroke-linejoin:round;stroke-linecap:butt")
    if drawing.heat:
        root.set("class", "heat")
    root.set("role", "img")
    root.set("aria-label", f"{title}. {drawing.told}")
    return ElementTree.tostring(root, encoding="unicode")


def grid(count: int, panel_height: float, extra: float, one_scale: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure, and its ``count`` small panels in reading order.

    Args:
        count: number of panels.
        panel_height: height of a row of panels, in inches.
        extra: height of title, legend and axis, in inches.
        one_scale: give all panels the same vertical scale.
    """
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    width = WIDTH if columns >= 3 else 6.2  # less has no room for the legend
    figure = Figure(figsize=(width, extra + panel_height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=one_scale, squeeze=False)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(h_pad=0.07)
    flat = list(panels.flat)
    for axes in flat[count:]:
        axes.set_visible(False)
    return figure, flat[:count]


def ink_on(fill: str) -> str:
    """White or black ink, whichever stands out more on the colour ``fill`` (relative luminance, WCAG 2)."""
    channels = np.array(to_rgb(fill))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#FFFFFF" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else BLACK
