"""Plans: the file, its forecast, its stamp in the model, and the trade-off curve whose points are plans."""

from onnxmpq.plan.curve import Axis, Point, draw, to_csv, trade_off
from onnxmpq.plan.forecast import Forecast
from onnxmpq.plan.plan import RETOUCHED, SCHEMA, Plan, PlannedRegion, read_plan
from onnxmpq.plan.points import at_point, with_points
from onnxmpq.plan.stamp import stamp, stamp_bytes
from onnxmpq.plan.words import in_units, narrowing

__all__ = [
    "RETOUCHED",
    "SCHEMA",
    "Axis",
    "Forecast",
    "Plan",
    "PlannedRegion",
    "Point",
    "at_point",
    "draw",
    "in_units",
    "narrowing",
    "read_plan",
    "stamp",
    "stamp_bytes",
    "to_csv",
    "trade_off",
    "with_points",
]
