"""What a recorded program would do under other settings: rows with intervals, sweeps of them, and a recommendation."""

from pymem.whatif.figures import Figures, figures
from pymem.whatif.fitting import fitted
from pymem.whatif.predict import predict
from pymem.whatif.recommend import Recommendation, recommend
from pymem.whatif.row import Estimate, Row, mark_pareto
from pymem.whatif.scenario import Scenario, grid
from pymem.whatif.sweep import source_for, sweep

__all__ = [
    "Estimate",
    "Figures",
    "Recommendation",
    "Row",
    "Scenario",
    "figures",
    "fitted",
    "grid",
    "mark_pareto",
    "predict",
    "recommend",
    "source_for",
    "sweep",
]
