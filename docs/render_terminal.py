"""Draw a recorded terminal as a PNG.

    tmux capture-pane -e -p > run.ansi
    python docs/render_terminal.py run.ansi docs/terminal.png

Needs Pillow and rich, and the DejaVu Sans Mono fonts (Debian: fonts-dejavu-core).
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI

FONTS = Path("/usr/share/fonts/truetype/dejavu")
SIZE, MARGIN = 15, 24
BACKGROUND = (24, 26, 31)
TEXT = (214, 218, 226)


def main(source: str, target: str) -> None:
    """Given a file of text with SGR escapes, write the picture."""
    lines = Path(source).read_text(encoding="utf-8").rstrip("\n").split("\n")
    font = ImageFont.truetype(str(FONTS / "DejaVuSansMono.ttf"), SIZE)
    bold = ImageFont.truetype(str(FONTS / "DejaVuSansMono-Bold.ttf"), SIZE)
    width, height = font.getlength("M"), SIZE * 1.32
    console = Console(color_system="truecolor", force_terminal=True, width=400)
    texts = list(AnsiDecoder().decode("\n".join(lines)))
    columns = max(text.cell_len for text in texts)
    size = (int(columns * width) + 2 * MARGIN, int(len(texts) * height) + 2 * MARGIN)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(texts):
        x = float(MARGIN)
        for segment in text.render(console):
            style = segment.style
            colour = TEXT
            if style is not None and style.color is not None:
                colour = tuple(style.color.get_truecolor(MONOKAI))
            if style is not None and style.dim:
                colour = tuple((part + back) // 2 for part, back in zip(colour, BACKGROUND, strict=True))
            content = segment.text.rstrip("\n")
            face = bold if style is not None and style.bold else font
            draw.text((x, MARGIN + row * height), content, font=face, fill=colour)
            x += font.getlength(content)
    image.save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
