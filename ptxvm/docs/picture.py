"""Draws a terminal's text (stdin) as SVG (stdout).

docs/race.svg is the output of `ptxvm run race.cu --block 256 --arg 'f32[256]=iota' 'f32[1]=zero'` in examples/, shortened to
one finding and the last line: python3 docs/picture.py < text > docs/race.svg
"""

import sys
from html import escape

lines = [line.rstrip() for line in sys.stdin]
width = 16 + 8 * max(map(len, lines))
height = 24 + 18 * len(lines)
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">')
print('<rect width="100%" height="100%" rx="6" fill="#16181d"/>')
print('<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">')
for number, line in enumerate(lines):
    colour = "#ff7b72" if line.startswith("ptxvm: ") else "#79c0ff" if "-->" in line else "#d6dbe3"
    print(f'<text x="12" y="{26 + 18 * number}" fill="{colour}">{escape(line)}</text>')
print("</g>\n</svg>")
