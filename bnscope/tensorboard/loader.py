"""What TensorBoard loads through the entry point. Nothing here needs more than TensorBoard."""

from __future__ import annotations

import argparse
from typing import Any

from tensorboard.plugins import base_plugin  # noqa: TID253  TensorBoard itself imports this

from bnscope.events.provider import SAMPLES
from bnscope.events.schema import PLUGIN


class Loader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the plugin."""

    def fix_flags(self, flags: argparse.Namespace) -> None:
        """Has the server keep every record: otherwise it drops the early ones at random."""
        kept = getattr(flags, "samples_per_plugin", None)
        if isinstance(kept, dict):
            kept.setdefault(PLUGIN, SAMPLES)

    def load(self, context: Any) -> Any:
        """The plugin; None where TensorBoard has no data to give."""
        from bnscope.tensorboard.plugin import BnScopePlugin

        return None if context.data_provider is None else BnScopePlugin(context)
