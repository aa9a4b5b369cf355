"""Takes the pictures of docs/tab.md: `python docs/pictures.py LOGDIR`.

They are of a real TensorBoard in Chromium (see tests/browser). LOGDIR holds the runs that
docs/tab.md names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

from browser import Browser, TensorBoard  # type: ignore[import-not-found]

FOLDER = Path(__file__).parent / "pictures"
VIEWS = {
    "overview": {},
    "layers": {"run": "fer2013/bnscope"},
    "layer": {"run": "fer2013/bnscope", "layer": "batch_normalization_1", "step": "25"},
    "compare": {"layer": "block/bn"},
    "model": {"run": "fer2013/bnscope"},
}
# Narrow enough to be read on a page.
SIZE = (1150, 900)


def main() -> None:
    """Takes them all."""
    FOLDER.mkdir(exist_ok=True)
    with TensorBoard(Path(sys.argv[1])) as server, Browser(SIZE) as browser:
        for dark in (False, True):
            for view, chosen in VIEWS.items():
                shown = {"view": view, **chosen}
                state = urlencode({f"p.bnscope.{key}": each for key, each in shown.items()})
                query = "?darkMode=true" if dark else ""
                browser.open(f"{server.url}/{query}#bnscope&{state}", view)
                path = FOLDER / f"{view}-{'dark' if dark else 'light'}.png"
                browser.picture(path)
                shrink(path)


def shrink(path: Path) -> None:
    """Fewer colours take a third of the room, and nobody sees it."""
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
