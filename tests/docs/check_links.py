#!/usr/bin/env python3
"""Every relative link of the documents leads to a file that exists. Usage: check_links.py ROOT"""

import pathlib
import re
import sys


def broken_links(root):
    broken = []
    documents = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md"), *root.glob("bench/**/*.md")]
    for document in documents:
        # Code is not prose: fenced blocks and `spans` hold no links.
        prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
        prose = re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", prose)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (document.parent / path) if path else document
            if not file.exists():
                broken.append(f"{document.relative_to(root)}: {target} does not exist")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                broken.append(f"{document.relative_to(root)}: {target} names no heading")
    return broken, len(documents)


def anchors(document):
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main():
    broken, n_documents = broken_links(pathlib.Path(sys.argv[1]).resolve())
    print("\n".join(broken + [f"{n_documents} documents, {len(broken)} broken links"]))
    sys.exit(1 if broken or not n_documents else 0)


if __name__ == "__main__":
    main()
