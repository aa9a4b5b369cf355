"""The plugin's routes: what the tab asks for, as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tensorboard import errors as tb_errors  # noqa: TID253  loaded by TensorBoard itself
from tensorboard import plugin_util  # noqa: TID253
from tensorboard.backend import http_util  # noqa: TID253
from tensorboard.plugins import base_plugin  # noqa: TID253
from werkzeug import wrappers

from bnscope.errors import BnscopeError
from bnscope.events.provider import Source
from bnscope.events.schema import PLUGIN
from bnscope.figures import theme
from bnscope.figures.loading import plotly
from bnscope.rules import all_rules
from bnscope.strict_json import dumps
from bnscope.tensorboard import answers, assets
from bnscope.tensorboard.store import Store

# Plotly's script changes only with plotly, and the tab asks for it with its version.
_SECONDS_KEPT = 24 * 3600
_BAD_REQUEST, _NOT_FOUND, _FAULT = 400, 404, 500
_SEE_LOG = "TensorBoard's output in the terminal has more; please report it."
_LOG = logging.getLogger(__name__)
_Answer = Callable[[Store, Source, Any], Any]


class BnScopePlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The tab "BN Scope".

    Args:
        context: TensorBoard's `TBContext`.
    """

    plugin_name = PLUGIN

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._provider = context.data_provider
        self._store = Store()
        threading.Thread(target=_warm_up, name="bnscope-warm-up", daemon=True).start()

    def get_plugin_apps(self) -> Mapping[str, Any]:
        """The routes; every other path is refused by TensorBoard."""
        routes: dict[str, Any] = {
            f"/{name}": _asset(name, kind) for name, kind in assets.own().items()
        }
        routes[f"/{assets.PLOTLY}"] = _plotly
        routes["/themes"] = _themes
        routes["/runs"] = self._json(answers.runs)
        routes["/health"] = self._json(answers.health)
        routes["/model"] = self._json(answers.model)
        routes["/steps"] = self._json(answers.steps)
        routes["/figure"] = self._json(answers.figure)
        return routes

    def is_active(self) -> bool:
        """Whether there is something to show; TensorBoard asks the data provider itself."""
        return False

    def frontend_metadata(self) -> Any:
        """What the tab is called, and where its module is."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="BN Scope")

    def _json(self, answer: _Answer) -> Any:
        @wrappers.Request.application
        def route(request: Any) -> Any:
            source = Source(
                self._provider,
                plugin_util.context(request.environ),
                plugin_util.experiment_id(request.environ),
            )
            try:
                found = answer(self._store, source, request.args)
            except (BnscopeError, ValueError) as error:
                return _refused(request, error)
            except tb_errors.NotFoundError as error:
                return _refused(request, BnscopeError(str(error)), _NOT_FOUND)
            except Exception as error:  # noqa: BLE001  the tab says so, and goes on
                _LOG.exception("bnscope cannot answer %s", request.path)
                told = f"This cannot be shown ({type(error).__name__}: {error})."
                return _refused(request, BnscopeError(told, _SEE_LOG), _FAULT)
            text = found if isinstance(found, str) else dumps(found)
            return http_util.Respond(request, text, "application/json")

        return route


def _warm_up() -> None:
    """Loads what the first view needs while TensorBoard still reads its log directory."""
    with contextlib.suppress(BnscopeError):
        all_rules()
        kinds = [{"type": "scatter"}, {"type": "heatmap"}]
        plotly("plotly.graph_objects").Figure({"data": kinds}).to_json()
        assets.plotly()


def _refused(request: Any, error: Exception, code: int = _BAD_REQUEST) -> Any:
    """An error as the tab shows it: what happened, and what to do."""
    message = getattr(error, "message", str(error))
    text = json.dumps({"error": message, "hint": getattr(error, "hint", "")})
    return http_util.Respond(request, text, "application/json", code=code)


def _asset(name: str, kind: str) -> Any:
    @wrappers.Request.application
    def route(request: Any) -> Any:
        return http_util.Respond(request, assets.read(name), kind)

    return route


@wrappers.Request.application
def _plotly(request: Any) -> Any:
    try:
        script = assets.plotly()
    except BnscopeError as error:
        return _refused(request, error, _NOT_FOUND)
    return http_util.Respond(
        request, script, "text/javascript", expires=_SECONDS_KEPT, content_encoding="gzip"
    )


@wrappers.Request.application
def _themes(request: Any) -> Any:
    try:
        version = plotly("plotly").__version__
    except BnscopeError as error:
        return _refused(request, error, _NOT_FOUND)
    looks = {
        "light": theme.template(),
        "dark": theme.template(dark=True),
        "plotly": version,
    }
    return http_util.Respond(request, dumps(looks), "application/json")
