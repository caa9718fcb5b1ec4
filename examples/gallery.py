"""Draw the pictures of docs/gallery.md by the code of that page.

python examples/gallery.py [--out docs/gallery]
"""

import argparse
import contextlib
import re
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "gallery", help="folder for the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    names: dict[str, Any] = {"__name__": "gallery"}
    # What is drawn to be read on a page need not be as fine, nor have as many colours, as what is printed.
    with contextlib.chdir(out), mpl.rc_context({"savefig.dpi": 90}):
        page = (DOCS / "gallery.md").read_text(encoding="utf-8")
        for found in re.finditer(r"```python\n(.*?)```", page, re.S):
            block = found[1]
            above = "\n" * page.count("\n", 0, found.start(1))  # so that errors name the line
            exec(compile(above + block, DOCS / "gallery.md", "exec"), names)
            for name in re.findall(r'savefig\("(.*?)"\)', block):
                with Image.open(name) as drawn:
                    drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                        name, optimize=True
                    )
                print(f"{time.perf_counter() - start:5.1f} s  {name}  {Path(name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
