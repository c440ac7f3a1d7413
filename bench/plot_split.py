#!/usr/bin/env python3
"""Pictures of `spillway-bench split --json=FILE`: time per step by mode, with its prediction and the link's limit.

usage: plot_split.py FILE.json [FOLDER]

Writes FOLDER/NAME-MODEL.png for each model (default: beside FILE). Needs matplotlib: bench/requirements.lock.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402

COLOURS = {"transfer": "#d62728", "rebuild": "#9467bd", "serial": "#ff7f0e", "auto": "#2ca02c"}
OTHER_COLOURS = ["#1f77b4", "#8c564b", "#e377c2", "#17becf"]
MS = 1e3


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def draw_mode(axes, rows, mode, colour):
    rows = sorted(rows, key=lambda row: row["batch"]["distinct_tokens"])
    tokens = [row["batch"]["distinct_tokens"] for row in rows]
    measured = [median(row["step_s"]) * MS for row in rows]
    low = [m - min(row["step_s"]) * MS for m, row in zip(measured, rows)]
    high = [max(row["step_s"]) * MS - m for m, row in zip(measured, rows)]
    axes.errorbar(tokens, measured, yerr=[low, high], fmt="o", color=colour, capsize=3, label=f"{mode}, measured")
    axes.plot(tokens, [row["predicted_step_s"] * MS for row in rows], "--", marker="_", markersize=14, color=colour,
              label=f"{mode}, predicted")


def draw_link(axes, rows, link):
    # Points of one number of tokens overlap: the larger batch is drawn, which is the one of more sequences.
    by_tokens = {}
    for row in rows:
        key = (row["mode"], row["batch"]["distinct_tokens"])
        if key not in by_tokens or row["batch"]["rows"] > by_tokens[key]["batch"]["rows"]:
            by_tokens[key] = row
    rows = list(by_tokens.values())
    others = iter(OTHER_COLOURS)
    for mode in dict.fromkeys(row["mode"] for row in rows):
        colour = COLOURS.get(mode) or next(others)
        draw_mode(axes, [row for row in rows if row["mode"] == mode], mode, colour)
    limit = sorted({(row["batch"]["distinct_tokens"], row["transfer_limit_s"] * MS) for row in rows})
    axes.plot(*zip(*limit), ":", color="black", linewidth=1.5, label="the link's limit for keys and values")
    axes.set_title(f"emulated link, {link:g} MB/s")
    axes.set_xlabel("cached tokens carried in a step")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(True, which="both", alpha=0.25)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def picture(report, model, path):
    rows = [row for row in report["rows"] if row["model"] == model and row["resident_share"] == 0]
    links = sorted({row["link_mb_per_s"] for row in rows})
    figure, panels = plt.subplots(1, len(links), figsize=(2.2 + 4.4 * len(links), 5.4), sharey=True, squeeze=False)
    for axes, link in zip(panels[0], links):
        draw_link(axes, [row for row in rows if row["link_mb_per_s"] == link], link)
    panels[0][0].set_ylabel("milliseconds a step (median; bars: least and most)")
    entries = sorted(zip(*panels[0][0].get_legend_handles_labels()), key=lambda entry: entry[1])
    figure.legend(*zip(*entries), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    machine = report["machine"]
    figure.suptitle(f"Decode steps of a {model} model behind an EMULATED link, nothing resident\n"
                    f"{machine['processor']}, {machine['cores']} cores; load average at the start "
                    f"{machine['load_average']:.1f}; {report['time'][:10]}")
    figure.tight_layout()
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else source.parent
    report = json.loads(source.read_text())
    if report.get("benchmark") != "split" or report.get("link") != "emulated" or "rows" not in report:
        sys.exit(f"{source} is not a report of `spillway-bench split`")
    for model in dict.fromkeys(row["model"] for row in report["rows"]):
        path = folder / f"{source.stem}-{model}.png"
        picture(report, model, path)
        print(path)


if __name__ == "__main__":
    main()
