"""A run -> plotly figures. The tab, notebooks and the report draw the very same ones.

Pure functions of a `bnscope.events.Run`; nothing is read or written here.
"""

from bnscope.figures.bands import bands
from bnscope.figures.channels import channel, channel_map
from bnscope.figures.comparison import comparison
from bnscope.figures.histograms import histograms
from bnscope.figures.layer_map import layer_map
from bnscope.figures.trends import trends

__all__ = [
    "bands",
    "channel",
    "channel_map",
    "comparison",
    "histograms",
    "layer_map",
    "trends",
]
