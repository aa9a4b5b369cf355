"""The rules on how statistics move, on runs made of numbers: planted faults, healthy noise."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from bnscope.bn import update_moving
from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.watching.alerts import Watch
from bnscope.watching.series import READINGS, SCALES, Scales

EPSILON = 1e-3


class Simulation:
    """BN layers whose batches are given; moving values as Keras keeps them, in float32."""

    def __init__(self, widths=(24, 24), momentum=0.9, statuses=None, **options):
        count = len(widths)
        self.layout = Layout(
            paths=tuple(f"bn{index}" for index in range(count)),
            widths=tuple(widths),
            momentum=(momentum,) * count,
            epsilon=(EPSILON,) * count,
            statuses=tuple(statuses or (Status.EXACT,) * count),
            has_gamma=(True,) * count,
            has_beta=(True,) * count,
        )
        self.momentum = momentum
        self.values = np.zeros((4, sum(widths)))
        self.values[[0, 3]] = 1.0
        self.watch = Watch(self.layout, **options)
        self.step = 0

    def begin(self, *, warm=False):
        paths = frozenset(self.layout.paths) if warm else frozenset()
        self.watch.begin(self.layout, self.step, self.values, warm=paths)
        return self

    def train(self, steps, batch, update_freq=10, gamma=None):
        """`batch(step)` is the mean and variance of the step's mini-batch."""
        for _ in range(steps):
            self.step += 1
            before = self.values
            self.values = before.copy()
            moved = update_moving(before[2:], batch(self.step), self.momentum)
            self.values[2:] = moved.astype(np.float32)
            if gamma is not None:
                self.values[0] = gamma(self.step)
            if self.step % update_freq == 0:
                window = Window(before[2:], self.values[2:], 1)
                list(self.watch.reading(self.step, self.values, window))
        return self

    @property
    def told(self):
        return [(a.code, a.layer, a.channel, a.step) for a in self.watch.alerts]


def noisy(rng, mean, variance, values):
    """Batches of so many values a channel: what sampling does to mean and variance."""

    def batch(_step):
        size = np.broadcast(mean, variance).shape
        drawn = rng.chisquare(values - 1, size) / values
        return np.stack(
            [
                mean + np.sqrt(variance / values) * rng.normal(size=size),
                variance * drawn,
            ]
        )

    return batch


def population(rng, channels=48):
    return rng.normal(0, 3, channels), np.exp(rng.normal(0, 1.5, channels))


def test_a_momentum_above_1_disturbs_no_other_layer():
    plain = Simulation()
    momentum, statuses = (1.5, 0.9), (Status.MOMENTUM, Status.EXACT)
    layout = replace(plain.layout, momentum=momentum, statuses=statuses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(Watch(layout).reading(5000, plain.values)) == []


@pytest.mark.parametrize("update_freq", [1, 10])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("values", [2, 64])
def test_sampling_noise_raises_nothing(momentum, values, update_freq, rng):
    batch = noisy(rng, *population(rng), values)
    for warm in (False, True):
        run = Simulation((1, 3, 20, 24), momentum)
        if warm:
            run.train(5 * int(1 / (1 - momentum)), batch, update_freq=10**9)
        run.begin(warm=warm).train(60 * update_freq, batch, update_freq)
        assert run.told == []


# BN502


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_statistics_of_other_data_are_a_gap(momentum, rng):
    mean, variance = population(rng)
    run = Simulation(momentum=momentum)
    run.values[2:] = mean, variance
    run.values[2, 24:] += 40 * np.sqrt(variance[24:])
    run.begin(warm=True).train(50, noisy(rng, mean, variance, 32), update_freq=2)
    (alert,) = run.watch.alerts
    assert (alert.code, alert.layer, alert.step) == ("BN502", "bn1", 2 * READINGS)
    assert len(alert.channels) == 24
    assert alert.value > 10 > alert.threshold
    assert alert.count > 1


def test_a_scale_of_other_data_is_a_gap_too(rng):
    mean, variance = population(rng)
    run = Simulation(momentum=0.99)
    run.values[2:] = mean, variance * 400
    run.begin(warm=True).train(50, noisy(rng, mean, variance, 32), update_freq=2)
    (alert,) = run.watch.alerts
    assert (alert.code, alert.layer) == ("BN502", "bn0")
    assert "in 24 of 24 channels: by a factor of" in alert.message
    assert "The same in 1 more layer." in alert.message


def test_a_gap_in_less_than_half_of_the_channels_is_none(rng):
    mean, variance = population(rng)
    run = Simulation(momentum=0.99)
    run.values[2:] = mean, variance
    run.values[2, 12:24] += 40 * np.sqrt(variance[12:24])
    run.begin(warm=True).train(50, noisy(rng, mean, variance, 32), update_freq=2)
    assert run.told == []


def test_cold_statistics_are_no_gap_and_a_jump_of_warm_ones_is(rng):
    mean, variance = population(rng)
    run = Simulation(momentum=0.9).begin()
    run.train(300, noisy(rng, mean + 50, variance, 32), update_freq=1)
    assert run.told == []
    run.train(5, noisy(rng, mean, variance, 32), update_freq=1)
    assert [told[0] for told in run.told] == ["BN502"]


@pytest.mark.parametrize("update_freq", [1, 10])
def test_the_lag_behind_a_steady_drift_is_explained(update_freq, rng):
    # 0.02 sigma a step: at momentum 0.99 the moving mean stays 2 sigma behind.
    mean, variance = population(rng)
    still = noisy(rng, mean, variance, 32)

    def drifting(step):
        return still(step) + np.stack([0.02 * step * np.sqrt(variance), 0 * variance])

    run = Simulation(momentum=0.99).begin().train(1000, drifting, update_freq)
    gap = np.abs(drifting(run.step)[0] - run.values[2]) / np.sqrt(variance)
    assert np.median(gap) > 1.5
    assert run.told == []


def test_rounding_of_recovered_statistics_is_explained(rng):
    # |mean| / sigma is 1e5: float32 keeps the moving mean, but not what moved it.
    mean, variance = 1e5 * np.ones(48), np.ones(48)
    run = Simulation(momentum=0.999)
    run.values[2:] = mean, variance
    run.begin(warm=True).train(200, noisy(rng, mean, variance, 256), update_freq=2)
    assert run.told == []


def test_one_unit_of_rounding_is_no_gap():
    # All that float32 shows of a batch that moved a mean of 1e5 by less than one unit.
    run = Simulation(momentum=0.999)
    run.values[2] = 1e5  # the variance is 1
    run.begin(warm=True)
    after = run.values.copy()
    after[2] = np.nextafter(np.float32(1e5), np.float32(2e5))
    assert (after[2] - run.values[2]).min() / (1 - 0.999) > 5  # sigma
    for step in range(1, 11):
        window = Window(run.values[2:], after[2:], 1)
        list(run.watch.reading(step, after, window))
    assert run.told == []


@pytest.mark.parametrize(
    "status", [Status.FROZEN, Status.SHARED, Status.RENORM, Status.REPLICAS]
)
def test_layers_whose_batches_are_not_known_have_no_gap(status, rng):
    mean, variance = population(rng)
    run = Simulation(momentum=0.99, statuses=(status, status))
    run.values[2:] = mean + 40, variance
    run.begin(warm=True).train(50, noisy(rng, mean, variance, 32), update_freq=2)
    assert run.told == []


# BN505

DYING = 30  # channel 6 of the second layer


def dies(rng, population_, factor_at):
    mean, variance = population_
    healthy = noisy(rng, mean, variance, 64)

    def batch(step):
        values = healthy(step)
        values[1, DYING] *= factor_at(step)
        return values

    return batch


@pytest.mark.parametrize(("momentum", "update_freq"), [(0.9, 1), (0.99, 10), (0.999, 10)])
def test_a_channel_that_dies_at_once_is_seen_long_before_it_is_dead(
    momentum, update_freq, rng
):
    begin = int(5 / (1 - momentum))
    whole = population(rng)
    whole[1][DYING] = 0.5
    run = Simulation(momentum=momentum).begin()
    batch = dies(rng, whole, lambda step: float(step <= begin))
    run.train(int(16 / (1 - momentum)), batch, update_freq)
    assert [told[:3] for told in run.told] == [("BN505", "bn1", 6), ("BN304", "bn1", 6)]
    dying, dead = (told[3] for told in run.told)
    assert begin < dying < begin + 0.6 * (dead - begin)


@pytest.mark.parametrize("half_life", [10, 100, 1000])
def test_a_slow_death_is_seen_at_its_own_pace(half_life, rng):
    whole = population(rng)
    whole[1][DYING] = 0.5
    run = Simulation(momentum=0.9).begin()
    batch = dies(rng, whole, lambda step: 0.5 ** (max(step - 200, 0) / half_life))
    run.train(200 + 14 * half_life, batch)
    assert [told[:3] for told in run.told] == [("BN505", "bn1", 6), ("BN304", "bn1", 6)]
    dying, dead = run.watch.alerts
    assert dying.step < dead.step - half_life
    assert dying.threshold == pytest.approx(EPSILON / 10)
    assert dying.count == (run.step - dying.step) // 10 + 1  # at every reading since
    assert dying.threshold < dying.value < 0.02
    assert "The variance falls geometrically in channel 6 of 24" in dying.message


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_the_fall_from_the_initial_variance_is_no_death(momentum, rng):
    mean, variance = population(rng)
    variance[:] = 10 ** rng.uniform(-3.5, -2, 48)  # all below 1, some below epsilon
    run = Simulation(momentum=momentum).begin()
    run.train(int(12 / (1 - momentum)), noisy(rng, mean, variance, 64))
    assert run.told == []


def test_a_channel_that_never_lived_is_seen_before_its_variance_has_fallen(rng):
    run = Simulation(momentum=0.99).begin()
    run.train(1000, dies(rng, population(rng), lambda _: 0.0))
    assert [told[:3] for told in run.told] == [("BN505", "bn1", 6), ("BN304", "bn1", 6)]
    assert run.told[0][3] < 500
    assert run.told[1][3] > 900
    assert "is constant" in run.watch.alerts[0].message


def gammas(rng, at, shape=48):
    start = rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < 0.3, -1, 1)

    def gamma(step):
        values = start * (1 + 0.02 * np.sin(step / 17 + start))
        values[DYING] = at(step)
        return values

    return gamma


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rate", [0.9, 0.998])
def test_a_gamma_that_decays_is_dying(rate, sign, rng):
    batch = noisy(rng, *population(rng), 64)
    run = Simulation().begin()
    steps = int(-5.5 / np.log(rate))
    gamma = gammas(rng, lambda step: sign * rate ** max(step - 50, 0))
    run.train(50 + steps, batch, 2, gamma)
    assert {told[:3] for told in run.told} == {("BN505", "bn1", 6)}
    alert = run.watch.alerts[0]
    assert alert.threshold < abs(alert.value) < 0.15
    assert alert.message.startswith("Gamma falls geometrically in channel 6 of 24")


def test_a_gamma_that_passes_through_zero_is_not_dying(rng):
    batch = noisy(rng, *population(rng), 64)
    for speed in (0.003, 0.01, 0.03):
        run = Simulation().begin()
        run.train(600, batch, 2, gammas(rng, lambda step: 1 - speed * step))  # noqa: B023
        assert run.told == []


def test_gammas_that_all_fall_are_not_dying_channels(rng):
    batch = noisy(rng, *population(rng), 64)
    start = rng.uniform(0.5, 1.5, 48)
    for rate in (0.99, 0.995):
        rates = np.full(48, rate)
        rates[DYING] = 0.99
        run = Simulation().begin().train(600, batch, 2, lambda step: start * rates**step)  # noqa: B023
        assert run.told == []


def test_gammas_that_swing_are_not_dying(rng):
    # As under a learning rate that is too large: each passes through 0 now and then.
    channels = 4000
    phase, pace = rng.uniform(0, 6.3, channels), rng.uniform(20, 60, channels)
    batch = noisy(rng, np.zeros(channels), np.ones(channels), 64)
    run = Simulation((1000,) * 4).begin()
    run.train(300, batch, 1, lambda step: np.cos(phase + step / pace) + 0.1)
    assert run.told == []


# Checkpoints, between which the updates are not counted


def readings(watch, layout, series, trained=None):
    """Readings of one layer; `series` holds its moving variances, a step a row."""
    told = []
    for step, variance in enumerate(series):
        values = np.stack([np.ones(layout.channels), np.zeros(layout.channels)] * 2)
        values[3] = variance
        count = None if trained is None else trained[step]
        told += watch.reading(step, values, trained=count)
    return [(alert.code, alert.channel, alert.step) for alert in told]


def checkpoints(**options):
    layout = Simulation((4,), 0.99).layout
    return Watch(layout, every_channel=True, counted=False, **options), layout


def test_a_channel_that_dies_over_checkpoints_is_seen_dying():
    series = np.tile([0.7, 0.3, 2.0, 0.5], (9, 1))
    series[:, 3] = [0.5, 0.45, 0.5, 0.12, 0.03, 0.008, 0.002, 5e-4, 1.2e-4]
    assert readings(*checkpoints(), series) == [("BN505", 3, 6)]
    series[8, 3] = 4e-5
    assert readings(*checkpoints(), series)[-1] == ("BN304", 3, 8)


def test_a_fall_that_may_be_that_from_the_initial_variance_is_left_out():
    share = 0.4 ** np.arange(9)
    series = share[:, None] + (1 - share[:, None]) * np.array([0.7, 0.3, 2.0, 8e-4])
    assert readings(*checkpoints(), series) == []
    # The optimizer's count says what of it is initial: the same fall, late in a training.
    late = [100_000 * (step + 1) for step in range(9)]
    assert ("BN505", 3, 7) in readings(*checkpoints(), series, late)


def test_what_dies_between_two_checkpoints_is_seen_dead_only():
    series = np.tile([0.7, 0.3, 2.0, 0.5], (8, 1))
    series[4:, 3] = [2e-5, 1e-18, 1e-36, 1e-36]
    assert readings(*checkpoints(), series) == [("BN304", 3, 4)]


# Memory and time


def test_readings_are_kept_at_several_scales_in_bounded_memory():
    scales, kept = Scales(), []
    for step in range(3000):
        kept = [window for window, _ in scales.add(step)]
        if step == 2559:
            steps = {window[1] - window[0]: window for window in kept}
            assert sorted(steps) == [2**scale for scale in range(SCALES)]
            assert all(window[-1] == 2559 and len(window) == READINGS for window in kept)
    assert sum(len(window) for window in scales._windows) == READINGS * SCALES
