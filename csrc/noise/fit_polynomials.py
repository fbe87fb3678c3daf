"""Prints the polynomial coefficients of ``normal.cc`` and their error before rounding of the arithmetic.

Near-minimax: interpolation at Chebyshev nodes in 50 digits, then rounded to float32. Needs mpmath and numpy::

    python csrc/noise/fit_polynomials.py
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np

mp.mp.dps = 50


def fit(f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int) -> list[np.float32]:
    """float32 coefficients c_0..c_degree of f on [low, high]."""
    n = degree + 1
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    matrix = mp.matrix([[x**j for j in range(n)] for x in nodes])
    return [np.float32(float(c)) for c in mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes]))]


def report(name: str, f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int) -> None:
    """Fit, print, and give the largest error against f on a dense grid."""
    coefficients = fit(f, low, high, degree)
    grid = [low + (high - low) * i / 2000 for i in range(2001)]
    error = max(abs(mp.fsum(mp.mpf(float(c)) * x**i for i, c in enumerate(coefficients)) / f(x) - 1) for x in grid)
    print(name, ", ".join(f"{float(c):.9g}f" for c in coefficients), f"  relative error {mp.nstr(error, 3)}")


if __name__ == "__main__":
    tiny = mp.mpf(10) ** -30

    def tail(x):
        return (mp.log1p(x) - x + x * x / 2) / x**3 if abs(x) > 1e-12 else mp.mpf(1) / 3 - x / 4

    report("kLn ", tail, mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, 8)
    report("kSin", lambda g: mp.sin(2 * mp.pi * mp.sqrt(g)) / mp.sqrt(g), tiny, mp.mpf(1) / 64, 3)
    report("kCos", lambda g: mp.cos(2 * mp.pi * mp.sqrt(g)), tiny, mp.mpf(1) / 64, 4)
