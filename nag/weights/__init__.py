"""Files of weights as people save them: what is in them, known before a tensor is read.

One form of file per module (`torch_zip`, `torch_legacy`, `safetensors_file`, `shards`); `pickled` interprets a pickle
without running it; `layout` finds the weights among everything else. `read_weights` does all of this.
"""

from nag.weights.layout import SeveralSets as SeveralSets
from nag.weights.reader import Weights as Weights
from nag.weights.reader import files_of as files_of
from nag.weights.reader import read_weights as read_weights
