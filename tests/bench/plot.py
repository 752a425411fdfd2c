"""The times as horizontal bars."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bench.report import JOBS, Row, rate, size

_COLOURS = {"download": "#b0b7c3", "native": "#d1935a", "serial": "#7a93b8", "oneconvert": "#1b7f5c"}


def plot(found: list[Row], where: str, path: Path) -> None:
    """One panel for each size and rate; a bar is a median, its line goes from the smallest to the largest."""
    matplotlib.use("Agg")
    contents = sorted({row.content for row in found})
    rates = list(dict.fromkeys(row.rate for row in found))
    jobs = [job for job in JOBS if any(job in row.runs for row in found)]
    names = list(dict.fromkeys(row.name for row in found))
    height = (0.14 * (len(jobs) + 1) * len(names) + 1) * len(contents) + 0.7
    figure = Figure(figsize=(6 * len(rates) + 2, height), layout="constrained")
    panels = figure.subplots(len(contents), len(rates), squeeze=False, sharey=True)
    for line, content in zip(panels, contents):
        for panel, name in zip(line, rates):
            bars = {row.name: row for row in found if (row.content, row.rate) == (content, name)}
            for position, job in enumerate(jobs):
                spreads = [(names.index(pair), row.seconds(job)) for pair, row in bars.items()]
                known = [(place, spread) for place, spread in spreads if spread]
                panel.barh(
                    [place + (position - (len(jobs) - 1) / 2) * 0.8 / len(jobs) for place, _ in known],
                    [spread.median for _, spread in known],
                    0.8 / len(jobs),
                    xerr=[
                        [spread.median - spread.lowest for _, spread in known],
                        [spread.highest - spread.median for _, spread in known],
                    ],
                    error_kw={"elinewidth": 0.8},
                    color=_COLOURS[job],
                    label=job,
                )
            panel.set_title(f"{size(content)} of content, {rate(name)}", fontsize=10)
            panel.set_xlabel("seconds (less is better)", fontsize=8)
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(len(names) - 0.5, -0.5)
            panel.grid(axis="x", alpha=0.3)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(jobs), frameon=False)
    figure.supxlabel(where, fontsize=6, color="#666666")
    figure.savefig(path, format="png", dpi=120)
