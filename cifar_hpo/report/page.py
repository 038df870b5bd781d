"""The report as a page: `write_page` draws the charts, renders page.html, and keeps both.

The page has no reference to anything outside of it, but to its server where it is live; its charts
are SVG in the page's own ink.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cifar_hpo.analysis.comparison import Comparison
from cifar_hpo.analysis.verdict import verdict
from cifar_hpo.paths import REPORT_CHART, REPORT_CHARTS, REPORT_PAGE, REPORT_TEMPLATE, REPORTS
from cifar_hpo.report.charts import Chart, charts_of
from cifar_hpo.report.runs import StoredRuns
from cifar_hpo.report.style import INK, RC_PARAMS
from cifar_hpo.report.tables import configuration_table
from cifar_hpo.study.storage import as_file_name

RESOLUTION = 130
"""Of the PNG files, in dots per inch."""


@dataclass(frozen=True)
class Picture:
    """A chart as part of the page; name: also that of its PNG file."""

    name: str
    svg: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading; missing: why a chart of it could not be drawn."""

    explanation: str
    pictures: list[Picture] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_page(comparison: Comparison, runs: StoredRuns | None) -> Path:
    """Draw all charts, write the page and the pictures, and return the page's path.

    Raises StudyError where the study's name can't be that of a folder.
    """
    folder = REPORTS / as_file_name(comparison.name)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(REPORT_CHARTS):
        stale.unlink()
    page = folder / REPORT_PAGE
    page.write_text(build_page(comparison, runs, folder), encoding="utf-8")
    return page


def build_page(
    comparison: Comparison, runs: StoredRuns | None, folder: Path, *, is_live: bool = False
) -> str:
    """The page as HTML, with all charts, which are also drawn to PNG files in the folder.

    is_live: whether it asks its server for what is new.
    """
    sections = draw_sections(charts_of(comparison, runs), folder)
    return render(comparison, sections, is_live=is_live)


def draw_sections(charts: Iterable[Chart], folder: Path) -> dict[str, Section]:
    """The charts by their section's title, each also as a PNG file in the folder.

    One that can't be drawn must not cost the others: its error is noted in its section.
    """
    sections: dict[str, Section] = {}
    for chart in charts:
        section = sections.setdefault(chart.section, Section(chart.explanation))
        if chart.draw is None:
            continue
        with plt.rc_context(RC_PARAMS), warnings.catch_warnings():  # Optuna's charts change both
            warnings.filterwarnings("ignore", "Glyph")  # names in scripts that the font lacks
            try:
                figure = chart.draw()
                path = folder / REPORT_CHART.format(chart=chart.name)
                figure.savefig(path, dpi=RESOLUTION, facecolor="white")
                section.pictures.append(Picture(chart.name, to_svg(figure, chart.name)))
            except Exception as error:  # noqa: BLE001  noted in the page
                section.missing.append(f"{chart.name}: {type(error).__name__}: {error}")
            plt.close("all")
    return sections


def to_svg(figure: Figure, name: str) -> str:
    """A chart as an SVG element that takes the page's text colour.

    Its ids begin with its name, because all charts share one page.
    """
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    document = written.getvalue()
    svg = document[document.index("<svg") :]
    svg = svg.replace(INK, "currentColor")
    svg = svg.replace('id="', f'id="{name}-')
    svg = svg.replace("url(#", f"url(#{name}-")
    return svg.replace('href="#', f'href="#{name}-')


def render(comparison: Comparison, sections: dict[str, Section], *, is_live: bool = False) -> str:
    """The page as HTML. is_live: whether it asks its server for what is new."""
    return template(REPORT_TEMPLATE.name).render(
        comparison=comparison,
        verdict=verdict(comparison),
        table=configuration_table(comparison),
        sections=sections,
        made=time.strftime("%Y-%m-%d %H:%M"),
        is_live=is_live,
    )


def template(name: str) -> jinja2.Template:
    """A page's template by the name of its file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORT_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
