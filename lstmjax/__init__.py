"""LSTMs for JAX: pure functions over params and state."""

from lstmjax.backends.dispatch import reasons as reasons
from lstmjax.cells import GRUGates as GRUGates
from lstmjax.cells import GRUParams as GRUParams
from lstmjax.cells import GRUState as GRUState
from lstmjax.cells import LSTMGates as LSTMGates
from lstmjax.cells import LSTMParams as LSTMParams
from lstmjax.cells import LSTMState as LSTMState
from lstmjax.cells import RNNGates as RNNGates
from lstmjax.cells import RNNParams as RNNParams
from lstmjax.cells import RNNState as RNNState
from lstmjax.cells import gru_gates as gru_gates
from lstmjax.cells import gru_step as gru_step
from lstmjax.cells import init_gru as init_gru
from lstmjax.cells import init_lstm as init_lstm
from lstmjax.cells import init_rnn as init_rnn
from lstmjax.cells import init_state as init_state
from lstmjax.cells import lstm_gates as lstm_gates
from lstmjax.cells import lstm_step as lstm_step
from lstmjax.cells import rnn_step as rnn_step
from lstmjax.sequence import Bidirectional as Bidirectional
from lstmjax.sequence import choose as choose
from lstmjax.sequence import run as run
from lstmjax.sequence import step as step
from lstmjax.sequence import trace as trace

__version__ = "0.1.0"
