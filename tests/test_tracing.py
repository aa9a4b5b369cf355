"""Live subclassed models and custom layers: what their `call` does is followed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.folding.plan import make_plan
from bnscope.graph import live, read
from bnscope.graph.batchnorm import batch_norms

BN = layers.BatchNormalization
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


class Block(layers.Layer):
    """A residual block."""

    def __init__(self, filters=4, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.bn = BN(name="bn")

    def call(self, x, training=None):
        return keras.ops.relu(self.bn(self.conv(x), training=training)) + x


class Network(keras.Model):
    """A subclassed model with blocks, an inner model, and bare operations."""

    def __init__(self):
        super().__init__(name="network")
        self.stem = layers.Conv2D(4, 3, name="stem")
        self.stem_bn = BN(name="stem_bn")
        self.blocks = [Block(name=f"block{i}") for i in range(2)]
        self.drop = layers.Dropout(0.5, name="drop")
        self.head = keras.Sequential(
            [layers.Dense(3, name="dense"), BN(name="last")], name="head"
        )

    def call(self, x, training=None):
        x = self.stem_bn(self.stem(x), training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.drop(x, training=training)[:, ::2]
        return self.head(keras.ops.mean(x, axis=(1, 2)))


def built(model, *shape):
    model(np.zeros((2, *shape), np.float32))
    return model


def own(call, *, width=3, **parts):
    """A subclassed model with these layers and this `call`."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            for name, layer in parts.items():
                setattr(self, name, layer)

    Own.call = call
    return built(Own(), width)


def functional_twin():
    x = inputs = keras.Input((8, 8, 3))
    x = BN(name="stem_bn")(layers.Conv2D(4, 3, name="stem")(x))
    for index in range(2):
        before = x
        x = BN(name=f"bn{index}")(layers.Conv2D(4, 3, padding="same")(x))
        x = keras.ops.relu(x) + before
    x = keras.ops.mean(layers.Dropout(0.5)(x)[:, ::2], axis=(1, 2))
    return keras.Model(inputs, BN(name="last")(layers.Dense(3)(x)))


def calls(graph):
    return [
        (call.kind, [tensor.index for tensor in call.inputs], call.outputs[0].shape)
        for call in graph.calls
    ]


def by_name(graph, name):
    return next(call for call in graph.calls if call.layer.path == name)


def test_a_subclassed_model_gives_the_calls_of_its_functional_twin():
    graph = live.read(built(Network(), 8, 8, 3), trace=True)
    assert calls(graph) == calls(live.read(functional_twin()))
    assert not graph.not_analysed
    assert [layer.path for layer in batch_norms(graph)] == [
        "stem_bn",
        "block0/bn",
        "block1/bn",
        "head/last",
    ]


def test_structural_rules_see_a_subclassed_model():
    report = bnscope.lint(built(Network(), 8, 8, 3))
    found = [finding.layer for finding in report if finding.code == "BN101"]
    assert found == ["stem", "block0/conv", "block1/conv", "head/dense"]
    assert report.status == "analysed"


def test_a_custom_layer_in_a_functional_model_is_followed_at_each_of_its_calls():
    inputs = keras.Input((8, 8, 4))
    block = Block(name="block")
    model = keras.Model(inputs, block(block(inputs)))
    graph = live.read(model, trace=True)
    assert len(graph.calls_of(graph.layer("block/bn"))) == 2
    assert [call.layer.path for call in graph.predecessors(by_name(graph, "block/bn"))] == [
        "block/conv"
    ]


def test_untraced_and_traced_layers_have_the_same_paths():
    model = built(Network(), 8, 8, 3)
    plain = {layer.path for layer in batch_norms(live.read(model))}
    assert plain == {layer.path for layer in batch_norms(live.read(model, trace=True))}


def snapshot(model):
    from keras.src.backend.common import global_state

    state = [
        {
            name: len(v) if isinstance(v, (list, dict, set)) else id(v)
            for name, v in vars(part).items()
        }
        for part in model._flatten_layers()
    ]
    names = dict(global_state.get_global_attribute("object_name_uids"))
    return state, names, [np.array(value) for value in model.get_weights()], seeds(model)


def seeds(model):
    return [
        np.array(layer.seed_generator.state)
        for layer in model._flatten_layers()
        if hasattr(layer, "seed_generator")
    ]


class Remembers(keras.Model):
    """A model whose `call` changes what it can."""

    def __init__(self):
        super().__init__()
        self.bn = BN()
        self.drop = layers.Dropout(0.5)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.calls, self.seen = 0, []

    def call(self, x, training=None):
        self.calls += 1
        self.seen.append(x)
        self.last = x
        self.count.assign_add(1.0)
        self.add_loss(keras.ops.sum(x))
        noise = keras.random.normal((3,), seed=self.drop.seed_generator)
        return self.drop(self.bn(x, training=True), training=True) + noise


@pytest.mark.parametrize(
    "make", [lambda: built(Network(), 8, 8, 3), lambda: built(Remembers(), 3)]
)
def test_tracing_leaves_the_model_as_it_was(make):
    model = make()
    before, losses = snapshot(model), list(model.losses)
    assert live.read(model, trace=True).calls
    after = snapshot(model)
    assert after[:2] == before[:2]
    for ours, theirs in zip(after[2] + after[3], before[2] + before[3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(losses) == len(model.losses)


def test_a_model_trains_on_after_it_was_traced():
    model = built(Network(), 8, 8, 3)
    model.compile("sgd", "mse")
    x, y = np.zeros((4, 8, 8, 3), np.float32), np.zeros((4, 3), np.float32)
    model.fit(x, y, verbose=0)
    live.read(model, trace=True)
    mean = np.array(model.stem_bn.moving_variance)
    model.fit(x, y, verbose=0)
    assert np.any(np.array(model.stem_bn.moving_variance) != mean)


def modes(model):
    graph = live.read(model, trace=True)
    return {call.layer.path: call.training for call in graph.calls}


def test_training_that_follows_the_caller_is_not_written_into_the_graph():
    assert set(modes(built(Network(), 8, 8, 3)).values()) == {None}


def test_training_written_in_a_call_is_found_with_what_it_does_to_later_layers():
    def call(self, x, training=None):
        x = self.b(self.a(x, training=training), training=False)
        return self.d(self.c(x), mask=None)

    model = own(call, **{name: BN(name=name) for name in "abcd"})
    assert modes(model) == {"a": None, "b": False, "c": False, "d": False}
    before = [np.array(each.moving_variance) for each in (model.c, model.d)]
    model(np.ones((2, 3), np.float32), training=True)
    after = [np.array(each.moving_variance) for each in (model.c, model.d)]
    np.testing.assert_array_equal(after, before)  # Keras does the same


def test_training_written_in_a_custom_layer_wins_over_the_callers():
    class Always(layers.Layer):
        def __init__(self):
            super().__init__(name="always")
            self.bn = BN(name="bn")

        def call(self, x, training=None):
            return self.bn(x, training=True)

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Always()(inputs, training=False))
    assert modes(model)["always/bn"] is True


def backend_function(self, x):
    import tensorflow as tf

    x = tf.nn.relu(self.a(x))
    return self.b(tf.concat([x, x], axis=-1))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="calls TensorFlow")
def test_functions_of_tensorflow_are_followed():
    graph = live.read(own(backend_function, a=BN(name="a"), b=BN(name="b")), trace=True)
    assert [call.kind for call in graph.calls] == [
        "BatchNormalization",
        "ops.Relu",
        "custom.tf.concat",
        "BatchNormalization",
    ]
    assert graph.calls[-1].inputs[0].shape == (None, 6)


def decides_by_values(self, x):
    return self.a(x) if keras.ops.sum(x) > 0 else self.b(x)


def decides_by_training(self, x, training=None):
    return self.a(self.b(x)) if training else self.b(x)


def turns_training_around(self, x, training=None):
    return self.a(x, training=not training)


def uses_numpy(self, x):
    return self.a(np.asarray(x))


def makes_layers(self, x):
    return self.a(layers.Dense(3)(x))


def fails(self, x):
    if isinstance(x, keras.KerasTensor):
        raise TypeError("no symbols here\nplease")
    return self.a(x)


# JAX does not even build such a model.
_NUMPY = (
    "its `call` looks at the values of a tensor" if ON_TENSORFLOW else "Keras does not know"
)
OPAQUE = [
    (decides_by_values, "Keras does not know its input shape"),
    (decides_by_training, "its `call` does not always call the same layers"),
    (turns_training_around, "its `call` turns `training` around"),
    (uses_numpy, _NUMPY),
    (makes_layers, 'its `call` uses "dense", which is none of its layers'),
    (fails, "a symbolic call fails (TypeError: no symbols here)"),
]


@pytest.mark.parametrize(
    ("call", "reason"), OPAQUE, ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called")
def test_what_cannot_be_followed_with_certainty_stays_opaque(call, reason):
    model = own(call, a=BN(name="a"), b=BN(name="b"))
    for name in ("a", "b"):
        if not getattr(model, name).built:
            getattr(model, name).build((None, 3))
    graph = live.read(model, trace=True)
    assert not graph.calls
    assert [layer.path for layer in batch_norms(graph)] == ["a", "b"]
    assert graph.not_analysed[0].reason.startswith(reason)
    assert bnscope.lint(model).status == "partly"


def test_a_custom_layer_that_decides_by_values_is_said_to_be_opaque():
    class Choice(layers.Layer):
        def __init__(self):
            super().__init__(name="choice")
            self.bn = BN(name="bn")

        def build(self, shape):
            self.bn.build(shape)

        def call(self, x):
            return keras.ops.cond(keras.ops.sum(x) > 0, lambda: self.bn(x), lambda: x)

    inputs = keras.Input((3,))
    graph = live.read(keras.Model(inputs, Choice()(inputs)), trace=True)
    assert [call.layer.path for call in graph.calls] == ["choice"]
    assert graph.layer("choice/bn")
    (part,) = graph.not_analysed
    assert part.layer == "choice"
    if ON_TENSORFLOW:
        assert part.reason.startswith("its `call` passes functions to cond;")


def test_an_unbuilt_model_says_what_to_do():
    class Unbuilt(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = BN()

        def call(self, x):
            return self.bn(x)

    model = Unbuilt()
    (part,) = live.read(model, trace=True).not_analysed
    assert part.reason.startswith("it is not built; call it on data once")
    assert not model.built


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called")
def test_tracing_builds_nothing():
    def call(self, x, training=None):
        return self.a(self.spare(x)) if training else self.a(x)

    model = own(call, a=BN(name="a"), spare=layers.Dense(3, name="spare"))
    (part,) = live.read(model, trace=True).not_analysed
    assert part.reason.startswith("one of its layers is not built")
    assert not model.spare.built
    assert not model.spare.weights
    model(np.zeros((2, 3), np.float32), training=True)
    assert model.spare.built


def test_a_bn_layer_that_the_call_does_not_use_is_named():
    unused = BN(name="unused")
    unused.build((None, 3))
    model = own(lambda self, x: self.a(x), a=BN(name="a"), unused=unused)
    graph = live.read(model, trace=True)
    assert [layer.path for layer in batch_norms(graph)] == ["a", "unused"]
    assert [part.layer for part in graph.not_analysed] == ["unused"]


def test_inputs_in_a_dictionary_and_several_outputs_are_followed():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.left, self.right = BN(name="left"), BN(name="right")

        def call(self, inputs):
            left, right = self.left(inputs["b"]), self.right(inputs["a"])
            return {"sum": left + right, "left": left}

    model = Two()
    model({"b": np.zeros((2, 3), np.float32), "a": np.zeros((2, 3), np.float32)})
    graph = live.read(model, trace=True)
    assert len(graph.inputs) == len(graph.outputs) == 2
    left, right = by_name(graph, "left"), by_name(graph, "right")
    assert left.inputs != right.inputs
    assert graph.is_output(left.outputs[0])
    assert not graph.is_output(right.outputs[0])


def test_a_functional_subclass_with_a_call_of_its_own_is_followed_there():
    class Own(keras.Model):
        def call(self, inputs, training=None):
            return keras.ops.relu(super().call(inputs, training=training))

    inputs = keras.Input((3,))
    model = Own(inputs, BN(name="bn")(inputs))
    graph = live.read(model, trace=True)
    kinds = [call.kind for call in graph.calls]
    assert kinds == ["ops.ConvertToTensor", "BatchNormalization", "ops.Relu"]


def test_what_was_followed_is_planned_as_any_other_model():
    model = built(Network(), 8, 8, 3)
    plan = make_plan(read(model))
    assert all(verdict.reason != "opaque-graph" for verdict in plan.verdicts)
    assert plan.folded


def test_bn_behind_a_followed_layer_is_folded_into_what_is_inside():
    inputs = keras.Input((8, 8, 3))
    conv = own_layer(layers.Conv2D(4, 3, name="conv"))
    model = keras.Model(inputs, BN(name="outer")(conv(inputs)))
    (verdict,) = make_plan(read(model)).verdicts
    assert (verdict.layer, verdict.into) == ("outer", "holder/conv")


def test_bn_inside_a_followed_layer_is_folded_into_what_is_before_it():
    inputs = keras.Input((8, 8, 3))
    inner = own_layer(BN(name="bn"))
    model = keras.Model(inputs, inner(layers.Conv2D(4, 3, name="conv")(inputs)))
    graph = read(model)
    assert [call.layer.path for call in graph.calls] == ["conv", "holder/bn"]
    (verdict,) = make_plan(graph).verdicts
    assert (verdict.layer, verdict.into) == ("holder/bn", "conv")


def own_layer(inner):
    class Holder(layers.Layer):
        def __init__(self):
            super().__init__(name="holder")
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    return Holder()


def test_the_layers_of_the_monitor_and_of_rewriting_are_not_traced():
    model = built(Network(), 8, 8, 3)
    assert set(live.keras_layers(model)) == {
        layer.path for layer in live.read(model).layers
    }
    assert not live.read(model).traced


def test_no_fix_is_promised_where_nothing_can_be_made_again():
    report = bnscope.lint(built(Network(), 8, 8, 3), select="BN101")
    assert report.findings
    assert {finding.fix for finding in report} == {None}
