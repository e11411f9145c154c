"""Data sets for the applications: `load`, `about`, `names`, `where`, the records they give, and sets that are drawn."""

from lstmjax.datasets.catalogue import Dataset as Dataset
from lstmjax.datasets.generated import Drawn as Drawn
from lstmjax.datasets.generated import adding as adding
from lstmjax.datasets.generated import copy as copy
from lstmjax.datasets.records import Images as Images
from lstmjax.datasets.records import Labelled as Labelled
from lstmjax.datasets.records import Pair as Pair
from lstmjax.datasets.records import Poem as Poem
from lstmjax.datasets.records import Predicate as Predicate
from lstmjax.datasets.records import Roles as Roles
from lstmjax.datasets.records import Tagged as Tagged
from lstmjax.datasets.records import Translation as Translation
from lstmjax.datasets.records import roles as roles
from lstmjax.datasets.store import FOLDER as FOLDER
from lstmjax.datasets.store import about as about
from lstmjax.datasets.store import load as load
from lstmjax.datasets.store import names as names
from lstmjax.datasets.store import where as where
