"""What a recorded program would do under other settings: rows with intervals, sweeps of them, and a recommendation."""

from pymem.whatif.figures import Figures, figures
from pymem.whatif.predict import predict
from pymem.whatif.recommend import Recommendation, recommend
from pymem.whatif.row import Estimate, Row, mark_pareto
from pymem.whatif.scenario import Scenario, grid
from pymem.whatif.sweep import sweep

__all__ = [
    "Estimate",
    "Figures",
    "Recommendation",
    "Row",
    "Scenario",
    "figures",
    "grid",
    "mark_pareto",
    "predict",
    "recommend",
    "sweep",
]
