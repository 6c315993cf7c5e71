"""A picture of swarms, as SVG, drawn with nothing but text: bars of total swarm time, and each peer's bytes over time."""

import html
import math

INK, SOFT, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
BOUND = "#d64545"
COLOURS = {"shoal": "#0b7a75", "libtorrent": "#c2741b"}
WIDTH = 1080
LEFT, RIGHT = 96, 40


def colour_of(side):
    return COLOURS.get(side, "#486581")


class Drawing:
    def __init__(self, height):
        self.height = height
        self.parts = []

    def line(self, x1, y1, x2, y2, colour, width=1.0, dash=None):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>')

    def box(self, x, y, width, height, colour, opacity=1.0):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" rx="3" fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def text(self, x, y, words, size=13, colour=INK, anchor="start", weight=400):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">{html.escape(words)}</text>'
        )

    def path(self, points, colour, width=1.4, opacity=0.75):
        steps = " ".join(f"{'M' if k == 0 else 'L'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(points))
        self.parts.append(
            f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round"/>'
        )

    def svg(self):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}" '
            'font-family="Inter, Helvetica, Arial, DejaVu Sans, sans-serif">'
        )
        return "\n".join([head, f'<rect width="{WIDTH}" height="{self.height}" fill="{PAPER}"/>', *self.parts, "</svg>"]) + "\n"


def tick_step(span, about):
    """1, 2 or 5 times a power of ten, so that there are about so many ticks."""
    raw = max(span, 1e-9) / about
    power = 10 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def ticks(span, about):
    step = tick_step(span, about)
    return [step * k for k in range(int(span / step + 1e-9) + 1)]


class Axis:
    """Seconds, from left to right; the same for all panels, so that they compare."""

    def __init__(self, seconds):
        self.seconds = seconds

    def x(self, seconds):
        return LEFT + seconds / self.seconds * (WIDTH - LEFT - RIGHT)

    def draw(self, drawing, top, bottom, name="seconds since the first registration"):
        for tick in ticks(self.seconds, 10):
            drawing.line(self.x(tick), top, self.x(tick), bottom, GRID)
            drawing.text(self.x(tick), bottom + 18, f"{tick:g}", 12, SOFT, "middle")
        drawing.text(WIDTH - RIGHT, bottom + 36, name, 12, SOFT, "end")


def draw_bound(drawing, axis, bound, top, bottom, is_named):
    if bound is None:
        return
    drawing.line(axis.x(bound), top, axis.x(bound), bottom, BOUND, 1.6, "6 4")
    if is_named:
        drawing.text(axis.x(bound), top - 6, f"lower bound {bound:.2f} s", 12, BOUND, "middle", 600)


def bar_label(run, bound):
    percent = f" · {100 * bound / run.seconds:.0f} % of the bound" if bound else ""
    return f"{run.seconds:.2f} s{percent}"


def draw_bars(drawing, axis, runs, bound, top):
    """A bar a run, from the top down; returns where they end."""
    bottom = top + 26 * len(runs)
    axis.draw(drawing, top - 4, bottom + 4)
    for row, run in enumerate(runs):
        y = top + 26 * row
        drawing.box(axis.x(0), y + 3, axis.x(run.seconds) - axis.x(0), 20, colour_of(run.side), 0.9)
        drawing.text(LEFT - 10, y + 18, run.side, 12, INK, "end")
        label, end = bar_label(run, bound), axis.x(run.seconds)
        if end > LEFT + 220:  # It has room at the start of the bar, away from the line of the bound.
            drawing.text(LEFT + 10, y + 18, label, 12, PAPER, "start", 600)
        else:
            drawing.text(end + 8, y + 18, label, 12, INK, "start", 600)
    draw_bound(drawing, axis, bound, top - 4, bottom + 4, is_named=True)
    return bottom


def thin(points, least=0.7):
    """Points nearer than what can be seen are left out."""
    kept = points[:1]
    for point in points[1:-1]:
        if abs(point[0] - kept[-1][0]) + abs(point[1] - kept[-1][1]) >= least:
            kept.append(point)
    return kept + points[-1:]


def draw_curves(drawing, axis, run, most, bound, top, height):
    """A line a peer: bytes that it has fetched, over time."""
    bottom = top + height
    axis.draw(drawing, top, bottom)
    mib = most / 2**20
    y = lambda bytes_: bottom - bytes_ / most * height  # noqa: E731
    for tick in ticks(mib, 4):
        drawing.line(LEFT, y(tick * 2**20), WIDTH - RIGHT, y(tick * 2**20), GRID)
        drawing.text(LEFT - 10, y(tick * 2**20) + 4, f"{tick:g} MiB", 12, SOFT, "end")
    if bound:
        drawing.path([(axis.x(0), y(0)), (axis.x(bound), y(most))], BOUND, 1.2, 0.5)
    draw_bound(drawing, axis, bound, top, bottom, is_named=False)
    for curve in run.curves:
        if curve:
            drawing.path(thin([(axis.x(0), y(0)), *[(axis.x(t), y(min(b, most * 1.02))) for t, b in curve]]), colour_of(run.side))
    drawing.text(LEFT + 12, top + 20, f"{run.side}: each peer, in the median run ({run.seconds:.2f} s)", 13, colour_of(run.side), "start", 600)
    return bottom


def median_run(runs):
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]


def swarm_picture(title, subtitle, runs, bound, most):
    """The whole picture. `most`: the bytes that a peer fetches; `bound` may be None."""
    sides = list(dict.fromkeys(run.side for run in runs))
    panel = 250
    drawing = Drawing(150 + 26 * len(runs) + len(sides) * (panel + 62))
    axis = Axis(max(run.seconds for run in runs) * 1.04)
    drawing.text(LEFT, 40, title, 21, INK, "start", 700)
    drawing.text(LEFT, 62, subtitle, 13, SOFT)
    bottom = draw_bars(drawing, axis, runs, bound, 104)
    for side in sides:
        chosen = median_run([run for run in runs if run.side == side])
        bottom = draw_curves(drawing, axis, chosen, most, bound, bottom + 62, panel)
    return drawing.svg()
