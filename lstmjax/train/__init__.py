"""Training that can be left alone: a step, a loop around it, snapshots to go on from, and what is shown meanwhile."""

from lstmjax.train.finder import RateFound as RateFound
from lstmjax.train.finder import find_learning_rate as find_learning_rate
from lstmjax.train.loop import Fitted as Fitted
from lstmjax.train.loop import fit as fit
from lstmjax.train.snapshots import Snapshots as Snapshots
from lstmjax.train.step import Best as Best
from lstmjax.train.step import Report as Report
from lstmjax.train.step import State as State
from lstmjax.train.step import init_state as init_state
from lstmjax.train.step import make_step as make_step
from lstmjax.train.sweeps import Swept as Swept
from lstmjax.train.sweeps import parse_sweep as parse_sweep
from lstmjax.train.sweeps import sweep as sweep
from lstmjax.train.watch import Watch as Watch
from lstmjax.train.watch import read_log as read_log
