"""The chart: throughput, latency and failures over time as inline SVG, drawn by pure functions.

Everything is a presentation attribute or a class, so that the page's policy may forbid inline styles. Text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from aftershock.report.series import Bin, Series

LOG_FROM_RATIO = 20.0
LEFT, RIGHT = 44.0, 12.0
ROW, PANEL, GAP, FOOT = 17.0, 92.0, 34.0, 40.0
CHARACTER = 6.9  # width of an average character at 12 px


@dataclass(frozen=True)
class Band:
    """A window of the schedule."""

    name: str
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Moment:
    """Something that happened to a fault."""

    label: str
    at_s: float
    kind: str  # requested | observed | undone | recovered


@dataclass(frozen=True)
class _Frame:
    """Where time lies on the paper."""

    from_s: float
    to_s: float
    width: float

    def x(self, at_s: float) -> float:
        inside = self.width - LEFT - RIGHT
        return LEFT + inside * (min(max(at_s, self.from_s), self.to_s) - self.from_s) / max(
            1e-9, self.to_s - self.from_s
        )


def draw(
    series: Series, bands: Sequence[Band], moments: Sequence[Moment], width: float, label: str, zero: str
) -> Markup:
    """The whole chart, `width` units wide; with no bins it says so.

    `label` is what a screen reader hears, `zero` names the moment at 0 s.
    """
    starts = [b.from_s for b in series.bins] + [b.from_s for b in bands] or [0.0]
    ends = [series.to_s] * bool(series.bins) + [b.to_s for b in bands] or [1.0]
    frame = _Frame(min(starts), max(ends), width)
    top = ROW * (1 + len(moments)) + 6
    panels = (
        ("Done per second", _throughput),
        (f"Latency, ms{', log' if _wide_range(series) else ''}", _latency),
        ("Failed journeys", _failures),
    )
    bottom = top + len(panels) * (PANEL + GAP)
    parts: list[str] = [*_bands(bands, frame, bottom)]
    for n, (title, paint) in enumerate(panels):
        y = top + GAP + n * (PANEL + GAP)
        parts += [_text(LEFT, y - 9, title, "c-title"), *paint(series, frame, y)]
    parts += [*_moments(moments, frame, bottom), *_axis(frame, bottom, zero)]
    head = f'<svg class="chart" viewBox="0 0 {_n(width)} {_n(bottom + FOOT)}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def ticks(highest: float, most: int = 4, whole: bool = False) -> list[float]:
    """Round numbers from 0 that reach at least `highest`, at most `most` steps."""
    if not math.isfinite(highest) or highest <= 0:
        return [0.0, 1.0]
    raw = highest / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    step = float(max(1, math.ceil(step))) if whole else step
    return [n * step for n in range(math.ceil(highest / step - 1e-9) + 1)]


def runs(points: Iterable[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Unbroken runs of a line: a None ends one."""
    found: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            found.append([])
        else:
            found[-1].append((at, value))
    return [run for run in found if run]


def _throughput(series: Series, frame: _Frame, y: float) -> list[str]:
    due = [b.due / series.width_s for b in series.bins]
    scale = ticks(max([*due, *(b.done_per_s for b in series.bins)], default=0.0))
    grid, height = _grid(scale, frame, y)
    if not series.bins:
        return [*grid, _nothing(frame, y, "nothing was stored")]
    lines = _line(series, frame, height, lambda b: b.due / series.width_s, "c-due")
    lines += _line(series, frame, height, lambda b: b.done_per_s, "c-done")
    return [*grid, *lines, *_legend(frame, y, (("due", "c-due"), ("done", "c-done")))]


def _latency(series: Series, frame: _Frame, y: float) -> list[str]:
    if _wide_range(series):
        grid, height = _log_grid(*_extremes(series), frame, y)
    else:
        grid, height = _grid(ticks(max((b.p95_ms or 0.0 for b in series.bins), default=0.0)), frame, y)
    if all(b.p95_ms is None for b in series.bins):
        return [*grid, _nothing(frame, y, "no journey was due")]
    lines = _line(series, frame, height, lambda b: b.p50_ms, "c-p50") + _line(
        series, frame, height, lambda b: b.p95_ms, "c-p95"
    )
    return [*grid, *lines, *_legend(frame, y, (("p50", "c-p50"), ("p95", "c-p95")))]


def _failures(series: Series, frame: _Frame, y: float) -> list[str]:
    scale = ticks(max((b.failed for b in series.bins), default=0), whole=True)
    grid, height = _grid(scale, frame, y)
    bars = []
    for b in series.bins:
        if b.failed:
            left, right, top = frame.x(b.from_s), frame.x(b.from_s + series.width_s), height(b.failed)
            bars.append(f'<rect class="c-failed" x="{_n(left + 0.5)}" y="{_n(top)}" width="{_n(max(1.5, right - left - 1))}" '
                        f'height="{_n(y + PANEL - top)}"/>')  # fmt: skip
    return (
        [*grid, *bars]
        if bars
        else [*grid, _nothing(frame, y, "no journey failed" if series.bins else "nothing was stored")]
    )


def _grid(scale: Sequence[float], frame: _Frame, y: float) -> tuple[list[str], Callable[[float], float]]:
    def height(value: float) -> float:
        return y + PANEL * (1 - min(value, scale[-1]) / scale[-1])

    return [part for value in scale for part in _rule(height(value), value, frame)], height


def _extremes(series: Series) -> tuple[float, float]:
    """Lowest p50 above zero and highest p95; 1 and 1 where there is none."""
    low = min((b.p50_ms for b in series.bins if b.p50_ms and b.p50_ms > 0), default=1.0)
    return low, max((b.p95_ms or low for b in series.bins), default=low)


def _wide_range(series: Series) -> bool:
    """True if a linear scale would press the ordinary latency flat onto its bottom line."""
    low, high = _extremes(series)
    return high > LOG_FROM_RATIO * low


def _log_grid(low: float, high: float, frame: _Frame, y: float) -> tuple[list[str], Callable[[float], float]]:
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def height(value: float) -> float:
        at = math.log10(value) if value > 0 else bottom
        return y + PANEL * (1 - (min(max(at, bottom), top) - bottom) / (top - bottom))

    return [part for power in range(bottom, top + 1) for part in _rule(height(10.0**power), 10.0**power, frame)], height


def _rule(at: float, value: float, frame: _Frame) -> tuple[str, str]:
    line = f'<line class="c-grid" x1="{_n(LEFT)}" x2="{_n(frame.width - RIGHT)}" y1="{_n(at)}" y2="{_n(at)}"/>'
    return line, _text(LEFT - 6, at + 4, f"{value:g}", "c-tick", "end")


def _line(
    series: Series, frame: _Frame, height: Callable[[float], float], value: Callable[[Bin], float | None], kind: str
) -> list[str]:
    middle = series.width_s / 2
    parts = []
    for run in runs((b.from_s + middle, value(b)) for b in series.bins):
        points = [(frame.x(at), height(v)) for at, v in run]
        if len(points) == 1:
            parts.append(f'<circle class="{kind} c-dot" cx="{_n(points[0][0])}" cy="{_n(points[0][1])}" r="3"/>')
        else:
            parts.append(f'<polyline class="{kind}" points="{" ".join(f"{_n(x)},{_n(y)}" for x, y in points)}"/>')
    return parts


def _legend(frame: _Frame, y: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, x = [], frame.width - RIGHT
    for name, kind in reversed(entries):
        x -= len(name) * CHARACTER
        parts.append(_text(x, y - 9, name, "c-tick"))
        x -= 28
        parts.append(f'<line class="{kind}" x1="{_n(x)}" x2="{_n(x + 23)}" y1="{_n(y - 13)}" y2="{_n(y - 13)}"/>')
        x -= 14
    return parts


def _bands(bands: Sequence[Band], frame: _Frame, bottom: float) -> list[str]:
    parts = []
    for band in bands:
        left, right = frame.x(band.from_s), frame.x(band.to_s)
        fault = " c-fault" if band.name == "fault" else ""
        parts.append(
            f'<rect class="c-band{fault}" x="{_n(left)}" y="0" width="{_n(max(0.0, right - left))}" height="{_n(bottom)}"/>'
        )
        name = band.name.replace("_", "-")
        if len(name) * CHARACTER + 4 <= right - left or fault:
            parts.append(_text((left + right) / 2, 13, name, f"c-name{fault}", "middle"))
    return parts


def _moments(moments: Sequence[Moment], frame: _Frame, bottom: float) -> list[str]:
    parts = []
    for n, moment in enumerate(sorted(moments, key=lambda m: m.at_s)):
        x, y = frame.x(moment.at_s), ROW * (n + 1) + 10
        fits = x + 8 + len(moment.label) * CHARACTER <= frame.width - RIGHT
        parts.append(
            f'<line class="c-moment c-{moment.kind}" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(y)}" y2="{_n(bottom)}"/>'
        )
        parts.append(f'<circle class="c-mark c-{moment.kind}" cx="{_n(x)}" cy="{_n(y)}" r="4"/>')
        parts.append(_text(x + 8 if fits else x - 8, y + 4, moment.label, "c-label", "start" if fits else "end"))
    return parts


def _axis(frame: _Frame, bottom: float, zero: str) -> list[str]:
    length = frame.to_s - frame.from_s
    step = ticks(length, max(2, int((frame.width - LEFT - RIGHT) // 44)))[1]
    parts = []
    for n in range(math.ceil(frame.from_s / step - 1e-9), math.floor(frame.to_s / step + 1e-9) + 1):
        parts.append(_text(frame.x(n * step), bottom + 16, f"{n * step:g}", "c-tick", "middle"))
    return [*parts, _text(frame.width - RIGHT, bottom + 33, f"seconds since {zero}", "c-tick", "end")]


def _nothing(frame: _Frame, y: float, text: str) -> str:
    return _text((LEFT + frame.width - RIGHT) / 2, y + PANEL / 2 + 4, text, "c-tick", "middle")


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
