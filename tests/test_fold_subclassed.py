"""Subclassed models, and custom layers with BN inside: their `call` is followed and opened."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import bnscope
from bnscope.errors import UnsupportedModelError

layers = keras.layers
BN = layers.BatchNormalization


@keras.saving.register_keras_serializable("opened")
class Block(layers.Layer):
    """Convolution, BN and ReLU; names are the same in each block."""

    def __init__(self, filters=4, *, residual=False, **options):
        super().__init__(**options)
        self.filters, self.residual = filters, residual
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")
        self.bn = BN(name="bn")

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build((*shape[:-1], self.filters))
        super().build(shape)

    def call(self, inputs, training=None):
        x = keras.ops.relu(self.bn(self.conv(inputs), training=training))
        return x + inputs if self.residual else x

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "residual": self.residual}


class Net(keras.Model):
    """Attributes, a list, a dictionary, nested blocks, and a layer that is called twice."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [Block(4), Block(4, residual=True)]
        self.heads = {"one": layers.Dense(3), "two": layers.Dense(2)}
        self.norm = BN()
        self.shared = layers.Dense(5)
        self.pool = layers.GlobalAveragePooling2D()
        self.drop = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        x = inputs
        for block in self.blocks:
            x = block(x, training=training)
        x = self.drop(self.norm(self.shared(self.pool(x)), training=training))
        return {name: head(x) for name, head in self.heads.items()}


def built(model, *shapes):
    model(*[np.zeros((2, *shape), "float32") for shape in shapes])
    return model


def randomize_weights(model):
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(rng.normal(size=variable.shape))
    return model


@pytest.fixture
def folded(randomized):
    def fold(model, *shapes):
        model = randomize_weights(randomized(model))
        before = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
        attributes = dict(vars(model))
        result = bnscope.fold(model)
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
        assert vars(model).keys() == attributes.keys()
        changed = {k for k, value in attributes.items() if vars(model)[k] is not value}
        assert changed <= {"_called"}  # it was run
        own = {id(v) for v in model.variables}
        assert not own & {id(v) for v in result.model.variables}
        x = [
            np.random.default_rng(1).normal(size=(3, *s)).astype("float32") for s in shapes
        ]
        one = keras.tree.flatten(model(*x, training=False))
        two = keras.tree.flatten(result.model(x if len(x) > 1 else x[0], training=False))
        for y, z in zip(map(np.asarray, one), map(np.asarray, two), strict=True):
            assert np.abs(y - z).max() <= 1e-5 * np.abs(y).max()
        return result

    return fold


def norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, BN)]


def test_a_subclassed_model_becomes_a_functional_one_without_bn(folded, tmp_path):
    result = folded(built(Net(name="net"), (8, 8, 4)), (8, 8, 4))
    assert all(verdict.folded for verdict in result.verdicts)
    assert norms(result.model) == []
    assert isinstance(result.model, keras.src.models.Functional)
    assert result.model.name == "net"
    assert set(result.model.output) == {"one", "two"}
    result.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 4)).astype("float32")
    for name, value in result.model(x).items():
        np.testing.assert_allclose(loaded(x)[name], value, rtol=1e-5)


def test_bn_in_a_custom_layer_of_a_functional_model_is_folded(folded):
    inputs = keras.Input((8, 8, 3))
    x = Block(4, name="first")(inputs)
    x = Block(4, residual=True, name="second")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(BN(name="last")(x)))
    result = folded(model, (8, 8, 3))
    verdicts = {v.layer: v.into for v in result.verdicts}
    assert verdicts == {
        "first/bn": "first/conv",
        "second/bn": "second/conv",
        "last": None,
    }
    assert [layer.name for layer in norms(result.model)] == ["last"]


def test_a_custom_layer_with_nothing_to_fold_stays_one(folded):
    class Plain(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = layers.Dense(4)

        def call(self, inputs):
            return keras.ops.tanh(self.dense(inputs))

    inputs = keras.Input((5,))
    model = keras.Model(inputs, BN()(layers.Dense(3)(Plain(name="named")(inputs))))
    result = folded(model, (5,))
    assert result.verdicts[0].folded
    assert type(result.model.get_layer("named")) is Plain


def test_a_block_that_is_used_twice_is_folded_once(folded):
    block = Block(3, name="block")
    inputs = keras.Input((6, 6, 3))
    result = folded(keras.Model(inputs, block(block(inputs))), (6, 6, 3))
    assert [v.folded for v in result.verdicts] == [True]


def test_several_arguments_become_several_inputs(folded):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = layers.Dense(3), BN()

        def build(self, first_shape, second_shape):
            self.dense.build(first_shape)
            self.norm.build((*second_shape[:-1], 3))

        def call(self, first, second, training=None):
            return self.norm(
                self.dense(first) - 2.0 * self.dense(second), training=training
            )

    result = folded(built(Two(), (4,), (4,)), (4,), (4,))
    assert len(result.model.inputs) == 2


def test_flags_and_regularizers_of_the_layers_inside_are_kept(folded):
    model = built(Net(), (8, 8, 4))
    model.blocks[0].trainable = False
    model.shared.kernel_regularizer = keras.regularizers.L2(0.1)
    result = folded(model, (8, 8, 4))
    inside = {layer.name: layer for layer in result.model._flatten_layers()}
    assert not inside[model.blocks[0].name].trainable
    assert inside[model.blocks[1].name].trainable
    assert inside[model.shared.name].kernel_regularizer.l2 == pytest.approx(0.1)


def times_itself(m, x, t):
    y = m.dense(x)
    return m.norm(y, training=t) * y


def subclass(call):
    class Made(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = layers.Dense(4, name="dense"), BN(name="norm")
            self.other, self.last = BN(name="other"), layers.Dense(4, name="last")

    def made_call(self, inputs, training=None):
        return call(self, inputs, training)

    Made.call = made_call
    return built(Made(), (4,))


REFUSED = {
    "used elsewhere": (
        times_itself,
        "multiple-consumers",
    ),
    "shared convolution": (
        lambda m, x, t: m.norm(m.dense(x), training=t) * m.dense(x + 1.0),
        "shared-layer",
    ),
    "activation between": (
        lambda m, x, t: keras.ops.tanh(m.norm(keras.ops.tanh(m.dense(x)), training=t)),
        "no-linear-neighbour",
    ),
}


@pytest.mark.parametrize(("call", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_call_forbids_is_kept_for_the_usual_reason(call, reason, randomized):
    result = bnscope.fold(randomized(subclass(call)))
    (verdict,) = [v for v in result.verdicts if v.layer == "norm"]
    assert (verdict.folded, verdict.reason) == (False, reason)


def test_a_bn_that_is_called_twice_goes_into_both_layers_before_it(folded):
    model = subclass(
        lambda m, x, t: m.norm(m.dense(x), training=t) * m.norm(m.last(x), training=t)
    )
    (verdict,) = [v for v in folded(model, (4,)).verdicts if v.layer == "norm"]
    assert set(verdict.layers) == {"dense", "last"}


def by_values(m, x, t):
    y = m.norm(m.dense(x), training=t)
    return y if keras.ops.sum(x) > 0 else -y


NOT_FOLLOWED = {
    "by values": (by_values, "cannot be followed"),
    "always training": (
        lambda m, x, _: m.norm(m.dense(x), training=True),
        'calls "norm" with training=True',
    ),
    "something else in training": (
        lambda m, x, t: m.norm(m.dense(x)) + (1.0 if t else x),
        "does not always call the same layers",
    ),
    "other layers in training": (
        lambda m, x, t: m.norm(m.dense(x)) if t else m.other(m.last(x)),
        "is not built",
    ),
    "numpy": (
        lambda m, x, _: m.norm(keras.ops.convert_to_tensor(np.asarray(m.dense(x)))),
        "cannot be followed",
    ),
}


@pytest.mark.parametrize(("call", "message"), NOT_FOLLOWED.values(), ids=NOT_FOLLOWED)
def test_a_call_that_cannot_be_followed_is_one_line(call, message, randomized):
    model = randomized(subclass(call))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        bnscope.fold(model)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_followed_within_an_operation_is_one_line_too(randomized):
    def choose(m, x, t):
        return keras.ops.cond(
            keras.ops.sum(x) > 0, lambda: m.norm(m.dense(x), training=t), lambda: x
        )

    model = randomized(subclass(choose))
    with pytest.raises(
        UnsupportedModelError, match="followed: one of its layers"
    ) as caught:
        bnscope.fold(model)
    assert "\n" not in str(caught.value)


def test_constants_of_a_call_are_those_of_inference(folded):
    model = subclass(lambda m, x, t: m.norm(m.dense(x), training=t) * (1.0 if t else 0.5))
    (verdict,) = [v for v in folded(model, (4,)).verdicts if v.layer == "norm"]
    assert verdict.folded


def test_an_output_that_is_none_is_left_out(randomized):
    model = randomized(subclass(lambda m, x, t: (m.norm(m.dense(x), training=t), None)))
    result = bnscope.fold(model)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    one, none = model(x)
    assert none is None
    (two,) = keras.tree.flatten(result.model(x))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_name_that_is_used_twice_does_not_become_one_that_is_taken(folded):
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(4, name=name) for name in ("d", "d_1", "d")]
            self.norms = [BN(name="n") for _ in self.parts]

        def call(self, inputs, training=None):
            x = inputs
            for part, norm in zip(self.parts, self.norms, strict=True):
                x = keras.ops.tanh(norm(part(x), training=training))
            return x

    result = folded(built(Named(), (4,)), (4,))
    assert all(verdict.folded for verdict in result.verdicts)
    names = [layer.name for layer in result.model.layers if layer.name.startswith("d")]
    assert names == ["d", "d_1", "d_2"]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="functions of TensorFlow"
)
def test_functions_of_tensorflow_are_made_again_too(folded):
    import tensorflow as tf

    model = subclass(lambda m, x, t: tf.nn.swish(m.norm(m.dense(x), training=t)))
    (verdict,) = [v for v in folded(model, (4,)).verdicts if v.layer == "norm"]
    assert verdict.folded


@keras.saving.register_keras_serializable("opened")
class Resized(layers.Layer):
    """Makes a layer in its `call`, with sizes that are known only when it runs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.norm = layers.Conv2D(4, 1, name="conv"), BN(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], 4))

    def call(self, inputs, training=None):
        x = self.norm(self.conv(inputs), training=training)
        size = keras.ops.shape(inputs)
        pooled = keras.ops.mean(x, (1, 2), keepdims=True)
        return x + layers.Resizing(size[1], size[2])(pooled)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def test_a_layer_that_cannot_be_opened_costs_only_its_own_bn(randomized):
    inputs = keras.Input((None, None, 3))
    x = BN(name="first")(layers.Conv2D(4, 3, name="stem")(inputs))
    model = randomized(keras.Model(inputs, Resized(name="resized")(x)))
    result = bnscope.fold(model)
    verdicts = {v.layer: (v.into, v.reason) for v in result.verdicts}
    assert verdicts == {
        "first": ("stem", None),
        "resized/norm": (None, "custom-layer"),
    }
    x = np.random.default_rng(1).normal(size=(2, 9, 7, 3)).astype("float32")
    one, two = np.asarray(model(x)), np.asarray(result.model(x))
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


class Masked(layers.Layer):
    """Uses the mask itself, as an argument that Keras fills in."""

    def __init__(self, *, hands_on=False, **options):
        super().__init__(**options)
        self.dense, self.norm = layers.Dense(4), BN()
        self.supports_masking = self.hands_on = hands_on

    def call(self, inputs, mask=None, training=None):
        x = self.norm(self.dense(inputs), training=training)
        return x if mask is None else x * keras.ops.cast(mask, x.dtype)[..., None]

    def get_config(self):
        return {**super().get_config(), "hands_on": self.hands_on}


class HandsOn(layers.Layer):
    """Does not look at the mask, and hands it on."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.norm = layers.Dense(4), BN()
        self.supports_masking = True

    def call(self, inputs, training=None):
        return keras.ops.tanh(self.norm(self.dense(inputs), training=training) + 1.0)


class Words(keras.Model):
    """So many words that random ones are hardly ever the padding."""

    def __init__(self, block, end):
        super().__init__()
        self.table = layers.Embedding(50_000, 4, mask_zero=True)
        self.block, self.end = block, end

    def call(self, inputs, training=None):
        # Keyword arguments: Keras leaves the mask out of the nodes of such calls.
        x = self.block(self.table(inputs), training=training)
        return self.end(x, training=training)


def padded():
    words = np.random.default_rng(3).integers(1, 50, (5, 6))
    words[:, 3:] = 0
    return words


MASKS = {
    "used inside": lambda: (
        Masked(),
        keras.Sequential([layers.Flatten(), layers.Dense(2)]),
    ),
    "used and handed on": lambda: (Masked(hands_on=True), layers.LSTM(3)),
    "handed on": lambda: (HandsOn(), layers.LSTM(3)),
}


@pytest.mark.parametrize("parts", MASKS.values(), ids=MASKS)
def test_a_mask_that_no_node_shows_is_not_lost(parts, randomized):
    model = Words(*parts())
    model(padded())
    result = bnscope.fold(randomize_weights(randomized(model)))
    one, two = np.asarray(model(padded())), np.asarray(result.model(padded()))
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()
    assert [(v.folded, v.reason) for v in result.verdicts] == [(False, "opaque-graph")]


def test_bn_between_an_embedding_with_a_mask_and_who_uses_it_is_folded(randomized):
    class Plain(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = layers.Dense(4), BN()

        def call(self, inputs, training=None):
            return self.norm(self.dense(inputs), training=training)

    model = Words(Plain(), layers.LSTM(3))
    model(padded())
    result = bnscope.fold(randomize_weights(randomized(model)))
    one, two = np.asarray(model(padded())), np.asarray(result.model(padded()))
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()
    assert [v.folded for v in result.verdicts] == [True]


def test_a_nested_model_of_the_original_gets_no_nodes(randomized):
    inputs = keras.Input((8, 8, 3))
    x = BN()(layers.Conv2D(4, 3)(inputs))
    inner = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="inner")

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def call(self, inputs, training=None):
            return self.inner(inputs, training=training)

    model = randomized(built(Outer(), (8, 8, 3)))
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    assert bnscope.fold(model).verdicts[0].folded
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before


class Counting(keras.Model):
    """What it returns depends on how often it was called before."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm = layers.Dense(3), BN()
        self.count = self.add_weight(shape=(), initializer="ones", trainable=False)

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((None, 3))

    def call(self, inputs):
        x = self.norm(self.dense(inputs)) * self.count
        self.count.assign(self.count + 1.0)
        return x


def test_a_call_that_keeps_a_state_is_not_folded_in_silence(randomized):
    model = Counting()
    model.build((None, 4))
    model(np.ones((1, 4), np.float32))
    name = model.count.name
    with pytest.raises(UnsupportedModelError, match=f'its `call` changes "{name}"'):
        bnscope.fold(randomized(model))


def test_a_model_that_was_never_called_is_refused():
    with pytest.raises(UnsupportedModelError, match="not built"):
        bnscope.fold(Net())


def test_a_saved_subclassed_model_is_folded_with_its_class(randomized, tmp_path):
    @keras.saving.register_keras_serializable("opened")
    class Saved(Net):
        pass

    model = randomized(built(Saved(), (8, 8, 4)))
    model.save(tmp_path / "model.keras")
    result = bnscope.fold(tmp_path / "model.keras")
    assert all(verdict.folded for verdict in result.verdicts)
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 4)).astype("float32")
    for name, value in model(x).items():
        np.testing.assert_allclose(result.model(x)[name], value, rtol=1e-4, atol=1e-5)


class Backbone(keras.Model):
    """As in keras_hub: a Functional subclass whose configuration is no graph."""

    def __init__(self, width, **options):
        inputs = keras.Input((8, 8, 3), name="images")
        x = Block(width, name="stem")(inputs)
        x = BN(name="norm")(layers.Conv2D(width, 1, name="conv")(x))
        super().__init__(inputs={"images": inputs}, outputs=x, **options)
        self.width = width
        self.pyramid_outputs = {"P1": x}

    def get_config(self):
        return {"width": self.width, "name": self.name}


def test_a_functional_subclass_is_folded_through_its_nodes(randomized):
    model = randomize_weights(randomized(Backbone(4, name="backbone")))
    result = bnscope.fold(model)
    assert [v.folded for v in result.verdicts] == [True, True]
    x = {"images": np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")}
    one, two = (np.asarray(m(x)) for m in (model, result.model))
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


def test_a_backbone_inside_a_model_is_folded(folded):
    inputs = keras.Input((8, 8, 3))
    x = Backbone(4, name="backbone")({"images": inputs})
    head = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    result = folded(keras.Model(inputs, head), (8, 8, 3))
    assert [v.into for v in result.verdicts] == ["backbone/stem/conv", "backbone/conv"]


def by_batch_size(size):
    def call(m, x, t):
        y = m.norm(m.dense(x), training=t)
        return keras.ops.tanh(y) if x.shape[0] == size else y

    return call


@pytest.mark.parametrize("size", [1, 3, 32])
def test_a_call_that_depends_on_the_size_of_the_batch_is_refused(size, randomized):
    model = randomized(subclass(by_batch_size(size)))
    with pytest.raises(
        UnsupportedModelError, match=f"something else with batches of {size}"
    ):
        bnscope.fold(model)


CONDITIONS = {
    "another constant": lambda y, n: y * (2.0 if n == SIZE else 1.0),
    "another axis": lambda y, n: keras.ops.flip(y, axis=0 if n == SIZE else 1),
    "a look at values": lambda y, n: y * 2 if n == SIZE and keras.ops.sum(y) > 0 else y,
}
SIZE = 32


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_what_depends_on_the_batch_size_without_another_layer_is_refused_too(
    condition, randomized
):
    def call(m, x, t):
        return condition(m.norm(m.dense(x), training=t), x.shape[0])

    with pytest.raises(
        UnsupportedModelError, match=r"with batches of 32|looks at the values"
    ):
        bnscope.fold(randomized(subclass(call)))


LOOKS = [bool, float, int, np.asarray, lambda x: next(iter(x)) is None]


@pytest.mark.parametrize("look", LOOKS, ids=["bool", "float", "int", "numpy", "iter"])
def test_a_look_at_values_is_seen_though_the_call_catches_the_error(look, randomized):
    def call(m, x, t):
        y = m.norm(m.dense(x), training=t)
        try:
            large = look(keras.ops.sum(x) > 1e6)
        except (TypeError, ValueError, NotImplementedError):
            large = False
        return keras.ops.tanh(y) if large else y

    with pytest.raises(UnsupportedModelError, match="looks at the values of a tensor"):
        bnscope.fold(randomized(subclass(call)))


def test_a_call_with_a_counter_is_refused_by_the_name_of_the_counter(randomized):
    def call(m, x, t):
        m.count = getattr(m, "count", 0) + 1
        return m.norm(m.dense(x), training=t) * (2.0 if m.count > 50 else 1.0)

    model = randomized(subclass(call))
    count = model.count
    with pytest.raises(UnsupportedModelError, match='changes "count", on which later'):
        bnscope.fold(model)
    assert model.count == count


def test_what_following_a_call_fixes_is_said(randomized):
    result = bnscope.fold(randomized(built(Net(), (8, 8, 3))))
    followed, taken = result.notes
    assert 'of "net' in followed
    assert "the size of a batch among them, is fixed" in followed
    assert taken == (
        "The new model takes samples of shape (8, 8, 3), as the original was built."
    )
    assert result.to_dict()["notes"] == [followed, taken]
    assert " ".join(taken.split()) in " ".join(str(result).split())
    assert result.informative


def test_a_model_that_is_not_opened_has_no_notes(randomized):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), BN()])
    assert bnscope.fold(randomized(model)).notes == ()


class Branches(keras.Model):
    """BN in a sum of operators."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn, self.head = layers.Dense(4), BN(), layers.LSTM(2)
        self.mask = layers.Masking()

    def call(self, inputs, training=None):
        x = keras.ops.relu(self.mask(inputs))
        return self.head(self.dense(x) + self.bn(x, training=training))


def test_bn_in_a_sum_within_a_call_is_folded_beside(folded):
    result = folded(built(Branches(), (6, 4)), (6, 4))
    assert [verdict.direction for verdict in result.verdicts] == ["beside"]
    assert norms(result.model) == []


class Scaled(keras.Model):
    """A weight of its own is multiplied with what BN returns, as it is or computed with."""

    def __init__(self, prepare, **options):
        super().__init__(**options)
        self.prepare, self.dense, self.bn = prepare, layers.Dense(4), BN()
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        return self.bn(self.dense(inputs), training=training) * self.prepare(self.scale)


def test_a_weight_that_a_call_uses_directly_becomes_a_constant(folded):
    assert folded(built(Scaled(lambda scale: scale), (3,)), (3,)).verdicts[0].folded


def test_weights_that_are_computed_with_alone_are_refused_in_one_line(randomized):
    model = randomized(built(Scaled(keras.ops.exp), (3,)))
    with pytest.raises(UnsupportedModelError, match="weights or constants alone"):
        bnscope.fold(model)


class Doubled(keras.Model):
    """A Functional model with a `call` of its own."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * 2.0


def test_a_functional_subclass_with_a_call_keeps_the_names_of_its_inputs(folded):
    inputs = keras.Input((3,), name="pixels")
    result = folded(Doubled(inputs, BN()(layers.Dense(4)(inputs))), (3,))
    assert result.verdicts[0].folded
    assert [tensor.name for tensor in result.model.inputs] == ["pixels"]
