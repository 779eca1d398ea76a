"""How far predictions are off: a program recorded once, predicted under a ladder of settings, and run under each."""

from pymem.accuracy.compare import FIGURES, Accuracy, Comparison, Rung, Summary, accuracy, summarise
from pymem.accuracy.ladder import parse_limit
from pymem.accuracy.measure import Measured, Measurement, measure, measurement
from pymem.record.subject import Subject, prepare

__all__ = [
    "FIGURES",
    "Accuracy",
    "Comparison",
    "Measured",
    "Measurement",
    "Rung",
    "Subject",
    "Summary",
    "accuracy",
    "measure",
    "measurement",
    "parse_limit",
    "prepare",
    "summarise",
]
