"""The recurrent samples, trained on real digits: small files that lose next to nothing, and the kernel of an LSTM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxmpq
from onnxmpq.runtimes import open_session, run
from tests.tables import int8_pays

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.mark.parametrize("name", ["digits_lstm", "digits_gru"])
def test_at_thirty_percent_of_the_size(name: str, tmp_path: Path) -> None:
    model = SAMPLES / f"{name}.onnx"
    result = onnxmpq.convert(
        model,
        size="30%",
        calibration=SAMPLES / "digits_calib.npz",
        samples=32,
        cost_table=int8_pays(model, tmp_path, "int8-dynamic"),
        schemes=["w8", "w6", "w4"],
        cache=False,
    )
    assert len(result.model.SerializeToString()) <= 0.3 * model.stat().st_size
    images = np.load(SAMPLES / "digits_test.npz")["image"][:64]
    before, after = open_session(model), open_session(result.model)
    error, signal = 0.0, 0.0
    for image in images:
        [one], [other] = (run(session, {"image": image[None]}) for session in (before, after))
        error, signal = error + float(np.square(one - other).sum()), signal + float(np.square(one).sum())
    assert 10 * np.log10(signal / error) >= 30.0
