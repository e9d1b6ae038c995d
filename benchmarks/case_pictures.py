"""The pictures of the case studies, from the code on the pages themselves.

    python -m benchmarks.case_pictures

Runs the Python blocks of each page in ``docs/case-studies/``; pictures that they save go to ``docs/assets/``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Run the pages and copy what they draw."""
    torch.set_num_threads(1)
    for page in sorted((DOCS / "case-studies").glob("*.md")):
        with tempfile.TemporaryDirectory() as folder:
            with chdir(folder):
                exec(compile("\n".join(BLOCK.findall(page.read_text())), str(page), "exec"), namespace())
            for drawn in Path(folder).glob("*.png"):
                shutil.copyfile(drawn, DOCS / "assets" / drawn.name)


def namespace() -> dict[str, Any]:
    """Return where a page's names live."""
    return {"__name__": "__docs__"}


if __name__ == "__main__":
    main()
