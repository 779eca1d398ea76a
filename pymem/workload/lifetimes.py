"""How long objects live, learnt from marks.

Of those born so many bytes before a mark, how many did it find dead? That share is the distribution function of the
lifetime at that age; statisticians call such data current status. It has to rise with age, so neighbouring ages where
it falls are pooled until it does (isotonic regression). Ages are bytes allocated since birth, in bins a quarter of an
octave wide. Cycles long past count for less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Lifetimes"]

_BINS_AN_OCTAVE = 4
_BINS = 45 * _BINS_AN_OCTAVE
_KEPT = 0.8
"""Weight of a cycle against the one after it."""


class Lifetimes:
    """A distribution of lifetimes that learns cycle by cycle."""

    def __init__(self) -> None:
        self._seen = np.zeros(_BINS)
        self._dead = np.zeros(_BINS)
        self._share = np.zeros(_BINS)

    def learn(self, ages: npt.NDArray[np.float64], dead: npt.NDArray[np.bool_]) -> None:
        """Take in what one mark found of the objects born since the mark before; ages in bytes."""
        bins = _bins(ages)
        self._seen = self._seen * _KEPT + np.bincount(bins, minlength=_BINS)
        self._dead = self._dead * _KEPT + np.bincount(bins, weights=dead, minlength=_BINS)
        self._share = _rising(self._dead, self._seen)

    def draw(self, most: npt.NDArray[np.float64], chance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return an age at death for each object known to have died before the age of `most`.

        chance: from 0 to 1, how far up the distribution, cut off at most.
        """
        edges = _edge(np.arange(_BINS + 1))
        at_edges = np.concatenate([[0.0], self._share])
        known = np.interp(most, edges, at_edges)
        drawn = np.interp(chance * known, at_edges + np.arange(_BINS + 1) * 1e-12, edges)
        return np.minimum(np.where(known > 0, drawn, chance * most), most)


def _bins(ages: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    octaves = np.log2(np.maximum(ages, 1.0))
    return np.minimum((octaves * _BINS_AN_OCTAVE).astype(np.int64), _BINS - 1)


def _edge(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    out: npt.NDArray[np.float64] = 2.0 ** (bins / _BINS_AN_OCTAVE)
    return out


def _rising(dead: npt.NDArray[np.float64], seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rising step function nearest to dead / seen (pool adjacent violators), 0 before the first bin seen."""
    blocks: list[list[float]] = []  # dead, seen, bins
    for d, s in zip(dead.tolist(), seen.tolist(), strict=True):
        blocks.append([d, s, 1])
        while len(blocks) > 1 and _level(blocks[-2]) >= _level(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return np.repeat([_level(block) for block in blocks], [int(block[2]) for block in blocks])


def _level(block: list[float]) -> float:
    return block[0] / block[1] if block[1] else 0.0
