"""What docs/metrics.md (generated from server/metric_table.cc) says that the daemon exports, and what expressions name."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FROM_PROMETHEUS = {"up", "ALERTS"}  # not the daemon's


def exported():
    """Every series name, histograms' three included -> its labels."""
    names = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        row = re.match(r"\| `(\w+)` \| (\w+) \| [^|]*\| ([^|]*)\|", line)
        if not row:
            continue
        name, kind, labels = row.groups()
        labels = set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            names[f"{name}_bucket"] = labels | {"le"}
            names[f"{name}_sum"] = names[f"{name}_count"] = labels
        else:
            names[name] = labels
    assert len(names) > 60, "docs/metrics.md has another form; the test has to follow"
    return names


def named(expression):
    """(metric, its label names in the matcher) of every selector of a PromQL expression."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\[[^\]]*\]", "", text)
    selectors = []
    for match in re.finditer(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:])\s*(\{[^}]*\})?", text):
        name, matcher = match.groups()
        # A function's name is followed by a parenthesis; the rest of the language's words are these.
        if text[match.end():].lstrip().startswith("(") or name in {"and", "or", "unless", "bool", "offset", "inf", "nan"}:
            continue
        selectors.append((name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matcher or ""))))
    return selectors


def unknown(expressions, recorded=()):
    """What these expressions name and neither the daemon exports nor a rule records: one line each."""
    known = exported()
    target_labels = {"job", "instance", "namespace", "pod"}
    faults = []
    for expression in expressions:
        for name, labels in named(expression):
            if name in FROM_PROMETHEUS or name in recorded:
                continue
            if name not in known:
                faults.append(f"{name} is no metric of the daemon: {expression}")
            elif labels - known[name] - target_labels:
                faults.append(f"{name} has no label {labels - known[name] - target_labels}: {expression}")
    return faults
