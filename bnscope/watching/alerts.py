"""What the rules say of a run while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bnscope.bn import Array
from bnscope.graph.model import Graph
from bnscope.rules.base import Context, Rule, StateProblem
from bnscope.rules.cold_stats_at_validation import ColdStatsAtValidation
from bnscope.rules.collapsed_variance import CollapsedVariance
from bnscope.rules.dying_channel import DyingChannel
from bnscope.rules.ema_without_recalibration import EmaWithoutRecalibration
from bnscope.rules.nan_statistics import NanStatistics
from bnscope.rules.ragged_last_batch import RaggedLastBatch
from bnscope.rules.small_batch import SmallBatch
from bnscope.rules.stats_not_updating import StatsNotUpdating
from bnscope.rules.train_inference_gap import TrainInferenceGap
from bnscope.rules.trainable_changed import TrainableChanged
from bnscope.rules.unsynchronized_replicas import UnsynchronizedReplicas
from bnscope.rules.window import Booleans, Window
from bnscope.statistics import channels
from bnscope.statistics.layout import VARIABLES, Layout, Status
from bnscope.watching.layers import pruned_layers
from bnscope.watching.ledger import Alert, Found, Ledger
from bnscope.watching.series import Series

__all__ = ["Alert", "Watch"]

# Not updated, or more often than once a step.
_OTHER_COUNT = frozenset({Status.FROZEN, Status.TIME_DISTRIBUTED, Status.SHARED})
_NOWHERE: frozenset[str] = frozenset()


class Watch:
    """Looks at a run and raises what is new: each alert once, then it is counted.

    The rules look at one layer at a time; most readings are fine, which a comparison of all
    channels at once tells. Each method is told of one event of the run, in their order; one
    that is never called costs only the alerts that hang on it. The methods return the alerts
    that are new, which are in `.alerts` too.

    Args:
        layout: the layers.
        alerts: what was raised so far; new ones are added to it.
        every_channel: whether each further channel of a layer is news, and not only a doubling
            of their number.
        counted: whether each step is one update of BN since training began, and not a number
            in the name of a checkpoint.
    """

    def __init__(
        self,
        layout: Layout,
        alerts: list[Alert] | None = None,
        *,
        every_channel: bool = False,
        counted: bool = True,
    ) -> None:
        self.alerts: list[Alert] = [] if alerts is None else alerts
        self.counted = counted
        self._ledger = Ledger(self.alerts, every_channel)
        self._start: tuple[int, Array] | None = None  # as `fit` began
        self._set_layout(layout, _NOWHERE, None)

    def begin(  # noqa: PLR0913  keywords
        self,
        layout: Layout,
        step: int,
        values: Array,
        *,
        graph: Graph | None = None,
        warm: frozenset[str] = _NOWHERE,
        replicas: int = 1,
    ) -> None:
        """A `fit` begins; what is known from readings before it is forgotten.

        Args:
            layout: the layers.
            step: the step.
            values: the variables, shape `(4, channels)`.
            graph: the model; without it BN405, BN407, BN408 and BN504 are not raised.
            warm: layers whose statistics are not the initial ones of step 0.
            replicas: among how many a batch is split.
        """
        self._set_layout(layout, warm, graph)
        self._replicas = replicas
        self._start = (step, values.copy())

    def written(self, layout: Layout, warm: frozenset[str]) -> None:
        """A callback has written to the layers.

        Args:
            layout: the layers; some may be frozen now.
            warm: those whose statistics hold nothing of the initial ones any more.
        """
        self.layout = layout
        self._series.set_layout(layout, warm)

    def reading(
        self,
        step: int,
        values: Array,
        window: channels.Window | None = None,
        *,
        trained: int | None = None,
    ) -> Iterator[Alert]:
        """BN501 and BN304 of the values, BN505 and BN502 of the last readings.

        Args:
            step: the step.
            values: the variables, shape `(4, channels)`.
            window: what was averaged, up to now; None if it was not read, which costs BN502.
            trained: the updates since training began; None if steps count them, or if they
                are not known.
        """
        if trained is None and self.counted:
            trained = step
        invalid = _NAN.flagged_channels(values, self.layout.channel_epsilon)
        yield from self._invalid(step, values, self._layers_with(invalid))
        collapsed = _COLLAPSED.flagged_channels(values, self.layout.channel_epsilon)
        yield from self._collapsed(step, values, self._layers_with(collapsed & ~invalid))
        windows = self._series.add(step, values, window, trained)
        yield from self._moving(step, windows, values)

    def validation(self, step: int, updates: int, skip: frozenset[str]) -> Iterator[Alert]:
        """BN503 if validation starts with cold statistics.

        Args:
            step: the step.
            updates: updates since training began.
            skip: layers whose statistics were not the initial ones when it began.
        """
        layout = self.layout
        cold: list[Found] = []
        for path, momentum, status in zip(
            layout.paths, layout.momentum, layout.statuses, strict=True
        ):
            problem = _COLD.check_updates(momentum, updates)
            if problem is not None and path not in skip and status not in _OTHER_COUNT:
                cold.append((path, problem))
        cold.sort(key=lambda found: -found[1].value)
        yield from self._layers(_COLD, cold, step)

    def epoch_end(self, step: int, values: Array) -> Iterator[Alert]:
        """BN506 for trainable layers that did not move since `fit` began.

        Args:
            step: the step.
            values: the variables, shape `(4, channels)`.
        """
        if self._start is None:
            return
        earlier, start = self._start
        between = channels.Window(start[2:4], values[2:4], max(step - earlier, 1))
        still = ~channels.moved(self.layout, between)
        found: list[Found] = []
        for index in np.flatnonzero(still):
            if self.layout.statuses[index] is Status.FROZEN:
                continue
            then, now = (self.layout.state(each, int(index)) for each in (start, values))
            problem = _STILL.check_states(then, now, step - earlier)
            if problem is not None:
                found.append((self.layout.paths[index], problem))
        if step > earlier and not found:
            self._start = None  # every layer has moved: nothing more to look for
        yield from self._layers(_STILL, found, step)

    @property
    def wants_epoch_end(self) -> bool:
        """Whether `epoch_end` still has something to look for."""
        return self._start is not None

    def batch_size(self, step: int, size: int) -> Iterator[Alert]:
        """BN405 and BN408 of the size of the batches, over all replicas."""
        if self._context is not None:
            small = self._watched(_SMALL.check_batch(self._context, size))
            parts = self._watched(
                _REPLICAS.check_replicas(self._context, size, self._replicas)
            )
            found = [*small, *parts]
            self._single = frozenset(path for path, each in found if each.value <= 1)
            yield from self._layers(_SMALL, small, step)
            yield from self._layers(_REPLICAS, parts, step)

    def last_batch(
        self, step: int, size: int, usual: float, batches: int
    ) -> Iterator[Alert]:
        """BN504 of the last of `batches` batches of an epoch, the others of `usual` samples."""
        if self._context is not None:
            found = _RAGGED.check_last_batch(self._context, size, usual, batches)
            worst = sorted(self._watched(found), key=lambda each: -each[1].value)
            yield from self._layers(_RAGGED, worst, step)

    def flags(
        self, step: int, now: Sequence[bool], compiled: Sequence[bool]
    ) -> Iterator[Alert]:
        """BN409 of each layer's `trainable`, now and as the training was compiled."""
        found: list[Found] = []
        for path, *pair in zip(self.layout.paths, now, compiled, strict=True):
            problem = _CHANGED.check_flag(*pair)
            if problem is not None:
                found.append((path, problem))
        yield from self._layers(_CHANGED, found, step)

    def averaged(self, step: int, when: str) -> Iterator[Alert]:
        """BN407: the model holds averaged weights; `when` says where ("at a validation")."""
        if self._context is not None:
            found = _AVERAGE.check_exchange(self._context, when)
            yield from self._layers(_AVERAGE, self._watched(found), step)

    def _set_layout(
        self, layout: Layout, warm: frozenset[str], graph: Graph | None
    ) -> None:
        self.layout = layout
        self._context = None if graph is None else Context(graph)
        self._replicas = 1
        self._start = None
        # Layers with one value a channel, whose variance is 0 for that reason alone.
        self._single = _NOWHERE
        self._dying: dict[int, dict[tuple[int, int], float]] = {}
        pruned = _NOWHERE if graph is None else pruned_layers(graph)
        self._series = Series(layout, warm, pruned)

    def _layers_with(self, found: Booleans, share: float = 0.0) -> list[int]:
        """The layers of whose channels more than a share were found."""
        if not found.any():
            return []
        counts = np.add.reduceat(found.astype(np.int64), self.layout.starts[:-1])
        return [
            int(i) for i in np.flatnonzero(counts > share * np.array(self.layout.widths))
        ]

    def _watched(self, found: Iterable[Found]) -> list[Found]:
        """What was found in the layers of the layout, each layer once."""
        wanted = dict.fromkeys(self.layout.paths)
        return list({path: (path, each) for path, each in found if path in wanted}.values())

    def _layers(self, rule: Rule, found: Sequence[Found], step: int) -> Iterator[Alert]:
        if found:
            alert = self._ledger.layers(rule, found, step)
            if alert is not None:
                yield alert

    def _invalid(self, step: int, values: Array, layers: list[int]) -> Iterator[Alert]:
        """BN501 for the first layer, in forward order, that went bad at this step."""
        found = [
            (
                self.layout.paths[index],
                _NAN.check_state(self.layout.state(values, index))[0],
            )
            for index in layers
        ]
        yield from self._layers(_NAN, found, step)

    def _collapsed(self, step: int, values: Array, layers: list[int]) -> Iterator[Alert]:
        for index in layers:
            problems = _COLLAPSED.check_state(self.layout.state(values, index))
            if self.layout.paths[index] in self._single:
                most = _COLLAPSED.LARGEST_VARIANCE
                problems = tuple(each for each in problems if each.value > most)
            yield from self._channels(_COLLAPSED, index, problems, step, values)

    def _channels(
        self,
        rule: Rule,
        index: int,
        problems: Sequence[StateProblem],
        step: int,
        values: Array,
    ) -> Iterator[Alert]:
        """Alerts for channels of a layer that were not named before."""
        path = self.layout.paths[index]
        if problems:
            self._ledger.seen(rule, path)
        for problem in problems:
            row = values[VARIABLES.index(problem.statistic), self.layout.part(index)]
            alert = self._ledger.channels(rule, path, problem, step, row)
            if alert is not None:
                yield alert

    def _moving(
        self, step: int, windows: Iterable[tuple[Window, bool]], values: Array
    ) -> Iterator[Alert]:
        """What the last readings show: BN505 and BN502."""
        dying: dict[int, list[StateProblem]] = {}
        far: list[Found] = []
        for window, apart in windows:
            for index in self._layers_with(_DYING.suspects(window)):
                problems = _DYING.check_window(window.part(self.layout.part(index)))
                if self.layout.paths[index] in self._single:
                    problems = tuple(each for each in problems if each.statistic == "gamma")
                dying.setdefault(index, []).extend(problems)
            if apart:
                far += self._far(window)
        for index, found in dying.items():
            self._note_dying(index, found, values)
            yield from self._channels(_DYING, index, found, step, values)
        self._still_dying({index for index, found in dying.items() if found}, values)
        far.sort(key=lambda each: -each[1].value)  # the largest gap is named
        yield from self._layers(_GAP, far, step)

    def _far(self, window: Window) -> Iterator[Found]:
        """The layers with a gap between training and inference."""
        for index in self._layers_with(_GAP.suspects(window), _GAP.LEAST_SHARE):
            for problem in _GAP.check_window(window.part(self.layout.part(index))):
                yield self.layout.paths[index], problem

    def _note_dying(self, index: int, found: Sequence[StateProblem], values: Array) -> None:
        """Notes where dying channels stand, to see whether they recover."""
        for problem in found:
            row = VARIABLES.index(problem.statistic)
            for channel in problem.channels:
                place = row, int(self.layout.starts[index]) + channel
                self._dying.setdefault(index, {})[place] = 2.0 * abs(float(values[place]))

    def _still_dying(self, told: set[int], values: Array) -> None:
        """Counts layers whose dying channels have not recovered, as those that are dead."""
        for index, places in self._dying.items():
            low = (abs(values[place]) <= most for place, most in places.items())
            if index not in told and any(low):
                self._ledger.seen(_DYING, self.layout.paths[index])


_NAN = NanStatistics()
_COLLAPSED = CollapsedVariance()
_COLD = ColdStatsAtValidation()
_DYING = DyingChannel()
_GAP = TrainInferenceGap()
_STILL = StatsNotUpdating()
_SMALL = SmallBatch()
_RAGGED = RaggedLastBatch()
_REPLICAS = UnsynchronizedReplicas()
_CHANGED = TrainableChanged()
_AVERAGE = EmaWithoutRecalibration()
