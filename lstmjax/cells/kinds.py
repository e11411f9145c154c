"""The kinds of layer there are, and what can be asked of any of them."""

from typing import Any

from lstmjax import checks
from lstmjax.cells.cell import Cell
from lstmjax.cells.gru import GRU
from lstmjax.cells.lstm import LSTM
from lstmjax.cells.minlstm import MINLSTM
from lstmjax.cells.rnn import RNN
from lstmjax.cells.slstm import SLSTM

CELLS = (LSTM, GRU, RNN, MINLSTM, SLSTM)
_BY_PARAMS = {cell.params: cell for cell in CELLS}


def cell_of(params: Any, name: str = "params") -> Cell:
    """The `Cell` whose params these are."""
    cell = _BY_PARAMS.get(type(params))
    if cell is None:
        kinds = ", ".join(kind.__name__ for kind in _BY_PARAMS)
        raise TypeError(
            f"{name} should be one of {kinds}, a Bidirectional pair or a tuple of them, got {checks.show(params)}"
        )
    return cell


def is_layer(x: Any) -> bool:
    """Whether `x` is the params of one layer, so that a walk over a stack stops there."""
    return type(x) in _BY_PARAMS or not isinstance(x, tuple)


def input_size(params: Any) -> int:
    """D of a layer."""
    return params.w_x.shape[-2]


def output_size(params: Any) -> int:
    """Features of a layer's output: P of an LSTM that projects, else H."""
    cell = cell_of(params)
    return dict(zip(cell.state._fields, cell.widths(params), strict=True))["h"]
