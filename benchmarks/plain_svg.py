"""A chart of a few lines as plain SVG. Knows numbers and names; knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 640, 320, 60, 45, 30, 190
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")


def lines(title: str, across: str, ticks: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Each of ``series`` has a value for each of ``ticks``, which stand at equal distances. From 0 up."""
    top = max(value for values in series.values() for value in values) * 1.1

    def at(number: int, value: float) -> tuple[float, float]:
        x = LEFT + number * (WIDTH - LEFT - RIGHT) / max(1, len(ticks) - 1)
        return x, HEIGHT - BELOW - value / top * (HEIGHT - BELOW - ABOVE)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 18, title, "start"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across),
    ]
    for part in range(5):
        _, y = at(0, top * part / 4)
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(_text(LEFT - 6, y + 4, f"{top * part / 4:.2g}", "end"))
    out += [_text(at(number, 0)[0], HEIGHT - BELOW + 18, tick) for number, tick in enumerate(ticks)]
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        points = [at(number, value) for number, value in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = ABOVE + 10 + 20 * COLOURS.index(colour)
        out.append(f'<path d="M{WIDTH - RIGHT + 12} {y}h18" stroke="{colour}" stroke-width="2"/>')
        out.append(_text(WIDTH - RIGHT + 36, y + 4, name, "start"))
    return "\n".join([*out, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
