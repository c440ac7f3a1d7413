#!/usr/bin/env python3
"""Draws the dashboards of this folder from a Prometheus, a PNG each: to look at them without Grafana.

usage: render.py [--prometheus=http://127.0.0.1:9090] [--minutes=60] [--output=FOLDER] [DASHBOARD.json...]

Panels are placed as Grafana places them; variables take every value. The exit code is 1 where a panel has no data.
Needs matplotlib: tests/deploy/requirements.lock.
"""

import argparse
import datetime
import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as dates  # noqa: E402  (the backend is chosen first)
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

COLUMNS = 24  # of Grafana's grid
COLUMN_INCHES, ROW_INCHES = 0.8, 0.42
SECONDS = [(86400, 86400, "d"), (3600, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms"), (0, 1e-6, "µs")]  # from, one, name
SCALES = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")]
BINARY = [(2**40, "Ti"), (2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"), (1, "")]


def with_unit(value, unit):
    """As Grafana writes it, or nearly."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        _, per, name = next(scale for scale in SECONDS if abs(value) >= scale[0])
        return f"{value / per:.3g} {name}" if value else "0 s"
    suffix = {"Bps": "B/s", "bytes": "B", "reqps": "req/s", "ops": "/s"}.get(unit, "")
    per, name = next((scale for scale in (BINARY if unit == "bytes" else SCALES) if abs(value) >= scale[0]), (1, ""))
    return f"{value / per:.3g} {name}{suffix}".strip()


class Prometheus:

    def __init__(self, url):
        self.url = url.rstrip("/")

    def range(self, expression, start, end, step):
        """[(labels, [(time, value)])] of an expression."""
        query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{query}", timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [(series["metric"], [(at, float(value)) for at, value in series["values"]]) for series in result]


def filled_in(expression, rate_interval):
    """The expression with Grafana's variables replaced: every job and daemon."""
    expression = expression.replace("$__rate_interval", rate_interval)
    return re.sub(r"\$\{?(job|instance)\}?", ".+", expression)


def legend(template, labels):
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template).strip()


def lines_of(panel, prometheus, span):
    """[(legend, times, values)], without what is no number anywhere."""
    start, end, step, rate_interval = span
    lines = []
    for target in panel["targets"]:
        for labels, values in prometheus.range(filled_in(target["expr"], rate_interval), start, end, step):
            if any(math.isfinite(value) for _, value in values):
                times = [datetime.datetime.fromtimestamp(at) for at, _ in values]
                lines.append((legend(target["legendFormat"], labels), times, [value for _, value in values]))
    return sorted(lines, key=lambda line: line[0])


def draw_series(axes, panel, lines, span):
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    colours = plt.get_cmap("tab10").colors + plt.get_cmap("Set2").colors
    if defaults["custom"]["stacking"]["mode"] == "normal":
        stamps = sorted({at for _, times, _ in lines for at in times})
        rows = []
        for _, times, values in lines:
            known = {at: value for at, value in zip(times, values) if math.isfinite(value)}
            rows.append([known.get(at, 0.0) for at in stamps])
        axes.stackplot(stamps, rows, labels=[name for name, _, _ in lines], colors=colours, alpha=0.75)
    else:
        for (name, times, values), colour in zip(lines, colours * 4):
            # One point is a dot, or nothing would be seen.
            axes.plot(times, values, label=name, color=colour, linewidth=1.1, marker="." if len(values) == 1 else None,
                      clip_on=False)  # a line along the axis is whole
    low, high = axes.get_ylim()
    low, high = defaults.get("min", low), defaults.get("max", 1.05 * high if max_of(lines) > 0 else 1)
    axes.set_ylim(low, high)
    # Ticks are round in the unit that they are written in.
    per = 1
    if unit == "bytes":
        per = next((per for per, _ in BINARY if high >= per), 1)
    elif unit == "s":
        per = next(per for least, per, _ in SECONDS if high >= least)
    axes.set_yticks([per * tick for tick in MaxNLocator(4).tick_values(low / per, high / per) if low <= per * tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit)))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S" if span[1] - span[0] < 1800 else "%H:%M"))
    axes.set_xlim(*(datetime.datetime.fromtimestamp(at) for at in span[:2]))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    # Legends that are long go into two columns, below as in Grafana.
    axes.legend(fontsize=6, ncols=3 if len(lines) < 12 else 4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False,
                handlelength=1.2, columnspacing=1)


def max_of(lines):
    return max(value for _, _, values in lines for value in values if math.isfinite(value))


def draw_stat(axes, panel, lines):
    defaults = panel["fieldConfig"]["defaults"]
    value = next(value for value in reversed(lines[0][2]) if math.isfinite(value))
    steps = defaults["thresholds"]["steps"]
    colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
    axes.text(0.5, 0.45, with_unit(value, defaults["unit"]), fontsize=20, ha="center", va="center", color=colour)


def draw(dashboard, prometheus, span, output):
    """Writes the picture; the titles of panels without data."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = COLUMNS * COLUMN_INCHES, (rows + 1.5) * ROW_INCHES
    figure = plt.figure(figsize=(width, height))
    figure.suptitle(dashboard["title"], x=0.01, y=1 - 0.25 / height, ha="left", fontsize=14, weight="bold")
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] * COLUMN_INCHES, (place["y"] + 1.2) * ROW_INCHES
        if panel["type"] == "row":
            figure.text(left / width + 0.005, 1 - (top + 0.6 * ROW_INCHES) / height, panel["title"], fontsize=11, weight="bold")
            continue
        plot = panel["type"] == "timeseries"
        margin = (0.7, 0.3, 0.4, 0.7) if plot else (0.3, 0.1, 0.4, 0.1)  # left, right, top, bottom, in inches
        axes = figure.add_axes(((left + margin[0]) / width,
                                1 - (top + place["h"] * ROW_INCHES - margin[3]) / height,
                                (place["w"] * COLUMN_INCHES - margin[0] - margin[1]) / width,
                                (place["h"] * ROW_INCHES - margin[2] - margin[3]) / height))
        axes.set_title(panel["title"], fontsize=9, loc="left")
        lines = lines_of(panel, prometheus, span)
        if not plot:
            axes.set_axis_off()
        if not lines:
            empty.append(panel["title"])
            axes.text(0.5, 0.5, "no data", ha="center", va="center", color="red", transform=axes.transAxes)
        elif plot:
            draw_series(axes, panel, lines, span)
        else:
            draw_stat(axes, panel, lines)
    figure.savefig(output, dpi=80)
    plt.close(figure)
    return empty


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Draws Grafana dashboards from a Prometheus.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: %(default)s)")
    parser.add_argument("--rate_interval", default="1m", help="for $__rate_interval: four scrapes or more (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."), help="folder of the pictures")
    parser.add_argument("dashboards", nargs="*", type=pathlib.Path, default=sorted(here.glob("*.json")))
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    end = time.time()
    span = (end - 60 * flags.minutes, end, max(1, 60 * flags.minutes / 240), flags.rate_interval)
    prometheus = Prometheus(flags.prometheus)
    faults = 0
    for file in flags.dashboards:
        picture = flags.output / f"{file.stem}.png"
        empty = draw(json.loads(file.read_text()), prometheus, span, picture)
        print(picture, *(f"no data: {title}" for title in empty), sep="\n  ")
        faults += len(empty)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
